"""Whole adapters to merge, small, of mixed ranks, scalings and modules, and their dense float64 updates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from merging_oracle import Dense, regauged
from torch import Tensor

from contpeft.merging import RULES, Fusion, Merged, Rank, Rule, Source, fuse, make_rule
from contpeft.spec.lora import ROOT, lora_scaling

MODULES = ("layer.0.query", "layer.0.value", "layer.1.query")
SHAPE = (14, 11)
# Rules in the reading that needs no rank, and those that run between two adapters.
NAMES = tuple(RULES)


def name(module: str, factor: str) -> str:
    return f"{ROOT}{module}.lora_{factor}.weight"


def source(
    seed: int,
    rank: int = 3,
    *,
    weight: float = 1.0,
    modules: Sequence[str] = MODULES,
    shape: tuple[int, int] = SHAPE,
    size: float = 1.0,
    dtype: torch.dtype = torch.float64,
    **config: Any,
) -> Source:
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    moments: dict[str, Tensor] = {}
    for module in modules:
        tensors[name(module, "A")] = torch.randn(rank, shape[1], generator=generator, dtype=torch.float64)
        tensors[name(module, "B")] = size * torch.randn(
            shape[0], rank, generator=generator, dtype=torch.float64
        )
        inputs = torch.randn(40, shape[1], generator=generator, dtype=torch.float64)
        moments[f"{module}.gram"] = inputs.T @ inputs
        moments[f"{module}.fisher_in"] = inputs.square().mean(0)
        moments[f"{module}.fisher_out"] = torch.rand(shape[0], generator=generator, dtype=torch.float64)
    told = {"r": rank, "lora_alpha": 2 * rank, "target_modules": ["query", "value"], **config}
    held = {key: value.to(dtype) for key, value in tensors.items()}
    return Source(f"a{seed}@1", f"{seed:064d}", "lora", told, held, weight, moments)


def regauged_source(given: Source, seed: int) -> Source:
    """Returns the same adapter in other factors."""
    tensors = dict(given.tensors)
    for place, module in enumerate(MODULES):
        if name(module, "A") in tensors:
            b, a = regauged(tensors[name(module, "B")], tensors[name(module, "A")], seed + place)
            tensors |= {name(module, "B"): b, name(module, "A"): a}
    return replace(given, tensors=tensors)


def dense_update(given: Source, module: str, shape: tuple[int, int] = SHAPE) -> Dense:
    """Returns what an adapter adds to a weight, its own weight left out; zeros where it adds nothing."""
    if name(module, "A") not in given.tensors:
        return np.zeros(shape)
    b, a = given.tensors[name(module, "B")].double(), given.tensors[name(module, "A")].double()
    return np.asarray(lora_scaling(given.config, module) * (b @ a))


def dense_merged(merged: Merged, module: str, shape: tuple[int, int] = SHAPE) -> Dense:
    if name(module, "A") not in merged.tensors:
        return np.zeros(shape)
    b, a = merged.tensors[name(module, "B")].double(), merged.tensors[name(module, "A")].double()
    return np.asarray(lora_scaling(merged.config, module) * (b @ a))


def merge(rule: str | Rule, *sources: Source, rank: str = "full", seed: int = 0, **parameters: Any) -> Merged:
    made = make_rule(rule, parameters) if isinstance(rule, str) else rule
    if made.dense and rank == "full":
        rank = str(min(SHAPE))
    return fuse(sources, Fusion(made, Rank.parse(rank), seed))


def several(rule: str, count: int = 3) -> list[Source]:
    """Returns adapters that a rule can merge: of mixed ranks and scalings, one without a module."""
    if RULES[rule].spec.name.startswith("peft-"):
        return [source(seed, 3, weight=0.5 + seed) for seed in range(count)]
    mixed = [
        source(0, 3, weight=1.0),
        source(1, 2, weight=0.5, use_rslora=True),
        source(2, 4, weight=1.5, modules=MODULES[:2]),
    ]
    return mixed[: 2 if rule == "slerp" else count]


def assert_equal(one: Merged, other: Merged, tolerance: float = 1e-9) -> None:
    for module in MODULES:
        expected = dense_merged(other, module)
        scale = max(1e-30, float(np.abs(expected).max()))
        np.testing.assert_allclose(
            dense_merged(one, module) / scale, expected / scale, rtol=0, atol=tolerance
        )
