"""A folder as PEFT saves LoRA adapters, made without PEFT, and ways to spoil it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

ROOT = "base_model.model.encoder.layer.{}.{}.lora_{}.weight"


def told(**options: Any) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["query", "value"],
        "base_model_name_or_path": "somebody/tiny-bert",
        "peft_version": "0.19.0",
        **options,
    }


def factors(seed: int = 0, r: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        ROOT.format(layer, part, factor): torch.randn(shape, generator=generator)
        for layer in (0, 1)
        for part in ("query", "value")
        for factor, shape in (("A", (r, 4)), ("B", (6, r)))
    }


def write_folder(
    folder: Path, config: Mapping[str, Any] | None = None, tensors: Mapping[str, Tensor] | None = None
) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(told() if config is None else config))
    save_file(dict(factors() if tensors is None else tensors), folder / "adapter_model.safetensors")
    return folder


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Returns every path below a folder and its bytes."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }
