"""A weighted sum of adapters by mergekit, whose way leads over whole models."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch
from _harness import Comparison, compare, peak_mebibytes, run_alone
from _lora_shapes import BASE, lora
from safetensors.torch import save_file

from contpeft import AdapterStore
from contpeft.store import Request

__all__ = ["against_mergekit", "run"]

ADAPTERS, RANK, LAYERS, WIDTH = 8, 8, 12, 768
SHAPES = {
    f"model.layers.{layer}.self_attn.{part}_proj": (WIDTH, WIDTH)
    for layer in range(LAYERS)
    for part in "qkvo"
}


def prepare(folder: Path) -> None:
    """Writes a base model, adapters as PEFT's folders, and the same adapters into a store."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = LlamaConfig(
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        intermediate_size=2048,
        num_attention_heads=12,
        vocab_size=8000,
    )
    LlamaForCausalLM(sizes).save_pretrained(folder / "base")
    store = AdapterStore(folder / "store")
    for seed in range(ADAPTERS):
        state = lora(SHAPES, RANK, seed)
        out = folder / f"a{seed}"
        out.mkdir()
        told = {**state.config, "base_model_name_or_path": str(folder / "base"), "task_type": "CAUSAL_LM"}
        (out / "adapter_config.json").write_text(json.dumps(told))
        save_file(dict(state.tensors), out / "adapter_model.safetensors")
        store.register(f"a{seed}", state, base=BASE)
    store.close()


def run(side: str, what: str, folder: Path) -> float:
    """Returns CPU seconds or peak mebibytes of one merge, imports left out of the seconds."""
    torch.set_num_threads(1)
    merge = _ours if side == "contpeft" else _theirs
    started = time.process_time()
    merge(folder)
    return time.process_time() - started if what == "seconds" else peak_mebibytes()


def _ours(folder: Path) -> None:
    store = AdapterStore(folder / "store")
    refs = [f"a{seed}" for seed in range(ADAPTERS)]
    weights = [1 / (place + 1) for place in range(ADAPTERS)]
    store.fusion.fuse(Request(refs, weights=weights), "sum")


def _theirs(folder: Path) -> None:
    from mergekit.config import MergeConfiguration
    from mergekit.merge import MergeOptions, run_merge

    base = str(folder / "base")
    models = [
        {"model": f"{base}+{folder / f'a{seed}'}", "parameters": {"weight": 1 / (seed + 1)}}
        for seed in range(ADAPTERS)
    ]
    settings: dict[str, Any] = {
        "models": models,
        "merge_method": "task_arithmetic",
        "base_model": base,
        "dtype": "float32",
        "parameters": {"normalize": False},
    }
    shutil.rmtree(folder / "merged", ignore_errors=True)
    shutil.rmtree(folder / "cache", ignore_errors=True)
    options = MergeOptions(copy_tokenizer=False, lora_merge_cache=str(folder / "cache"), quiet=True)
    run_merge(MergeConfiguration.model_validate(settings), str(folder / "merged"), options)


def against_mergekit(folder: Path) -> list[Comparison]:
    """Compares time and peak memory of the same weighted sum."""
    prepare(folder)
    sides = ("contpeft", "mergekit")
    seconds, peak = (
        [(run_alone(__file__, sides[0], what, str(folder)), run_alone(__file__, sides[1], what, str(folder)))]
        for what in ("seconds", "peak")
    )
    label = f"weighted sum of {ADAPTERS} LoRAs, {len(SHAPES)} modules"
    return [
        compare(label, sides, seconds, "CPU s"),
        compare(f"{label}, peak memory of the process", sides, peak, "MiB"),
    ]


if __name__ == "__main__":
    print(run(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
