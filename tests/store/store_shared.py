"""Adapters that have directions in common, for tests of versions on a shared basis."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from contpeft.spec import AdapterState, HeadSpec

ROOT = "base_model.model."
SHAPES = {"layer.0.query": (30, 20), "layer.0.value": (18, 20), "layer.1.query": (30, 20)}
RANK, SHARED = 4, 8
HEAD = HeadSpec("cosine", ("no", "yes"), {"scale": 10.0})


def related(count: int, *, noise: float = 0.0, dtype: torch.dtype = torch.float32) -> list[AdapterState]:
    """Returns adapters of rank 4 in 8 common directions of each side of a module, plus noise."""
    generator = torch.Generator().manual_seed(3)
    common = {
        module: (
            torch.randn(rows, SHARED, generator=generator),
            torch.randn(SHARED, columns, generator=generator),
        )
        for module, (rows, columns) in SHAPES.items()
    }
    return [_adapter(common, noise, dtype, generator) for _ in range(count)]


def _adapter(
    common: dict[str, tuple[Tensor, Tensor]], noise: float, dtype: torch.dtype, generator: torch.Generator
) -> AdapterState:
    tensors = {"head.weight": torch.randn(2, 5, generator=generator)}
    for module, (left, right) in common.items():
        b = left @ torch.randn(SHARED, RANK, generator=generator)
        a = torch.randn(RANK, SHARED, generator=generator) @ right
        for name, factor in (("B", b), ("A", a)):
            noisy = factor + noise * factor.norm() / factor.numel() ** 0.5 * torch.randn(
                factor.shape, generator=generator
            )
            tensors[f"{ROOT}{module}.lora_{name}.weight"] = noisy.to(dtype)
    return AdapterState("lora", config(), tensors, HEAD)


def config(**options: Any) -> dict[str, Any]:
    return {"peft_type": "LORA", "r": RANK, "lora_alpha": 8, "target_modules": ["query", "value"], **options}


def dense(state: AdapterState) -> dict[str, NDArray[np.float64]]:
    """Returns the update of each module, scaled as its configuration says."""
    updates = {}
    for name, b in state.tensors.items():
        if not name.endswith("lora_B.weight"):
            continue
        module = name.removeprefix(ROOT).removesuffix(".lora_B.weight")
        a = state.tensors[name.replace("lora_B", "lora_A")]
        rank = state.config.get("rank_pattern", {}).get(module, state.config["r"])
        alpha = state.config.get("alpha_pattern", {}).get(module, state.config["lora_alpha"])
        updates[module] = alpha / rank * np.asarray(b.double() @ a.double())
    return updates


def apart(one: AdapterState, other: AdapterState) -> float:
    """Returns the norm of the difference of two adapters over that of the first."""
    first, second = dense(one), dense(other)
    lost = sum(np.sum((d - second.get(module, 0 * d)) ** 2) for module, d in first.items())
    return float(np.sqrt(lost / sum(np.sum(d**2) for d in first.values())))
