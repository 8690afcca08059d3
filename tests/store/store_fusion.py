"""Adapters as a store holds them, for merging: mixed ranks, heads, a base."""

from __future__ import annotations

from typing import Any

import torch
from store_workers import BASE

from contpeft.spec import AdapterState, HeadSpec
from contpeft.spec.lora import ROOT
from contpeft.store import AdapterStore

MODULES = ("layer.0.query", "layer.0.value", "layer.1.query")


def lora_state(seed: int, r: int = 2, classes: tuple[str, ...] = ("no", "yes"), **told: Any) -> AdapterState:
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for module in MODULES:
        tensors[f"{ROOT}{module}.lora_A.weight"] = torch.randn(r, 7, generator=generator)
        tensors[f"{ROOT}{module}.lora_B.weight"] = torch.randn(9, r, generator=generator)
    tensors["head.weight"] = torch.randn(len(classes), 7, generator=generator)
    config = {"peft_type": "LORA", "r": r, "lora_alpha": 2 * r, "target_modules": ["query", "value"], **told}
    return AdapterState("lora", config, tensors, HeadSpec("linear", classes))


def learn_three(store: AdapterStore) -> None:
    """Registers a@1, b@1 and c@1."""
    for seed, (name, r) in enumerate((("a", 2), ("b", 3), ("c", 2))):
        store.register(name, lora_state(seed, r), base=BASE, task=f"task-{name}")


def update_of(state: AdapterState, module: str) -> torch.Tensor:
    b, a = (state.tensors[f"{ROOT}{module}.lora_{factor}.weight"].double() for factor in "BA")
    return state.config["lora_alpha"] / state.config["r"] * (b @ a)
