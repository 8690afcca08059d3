"""LoRA adapters that were trained, each on a task of its own, in a moment: their spread is no dice's."""

from __future__ import annotations

import torch
from torch import Tensor

from contpeft.spec import AdapterState

MODULES = tuple(f"layer.{layer}.{part}" for layer in range(4) for part in ("query", "value"))
SIZE, RANK = 24, 6
CONFIG = {"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK, "target_modules": ["query", "value"]}


def train(count: int, seed: int = 0) -> list[AdapterState]:
    """Returns adapters of one model whose tasks have something in common, and are of several sizes."""
    generator = torch.Generator().manual_seed(seed)
    states: list[dict[str, Tensor]] = [{} for _ in range(count)]
    for module in MODULES:
        for state, b, a in zip(states, *_fit(count, generator), strict=True):
            state[f"base_model.model.{module}.lora_A.weight"] = a
            state[f"base_model.model.{module}.lora_B.weight"] = b
    return [AdapterState("lora", CONFIG, state) for state in states]


def _fit(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Returns the factors of one module of every adapter, fitted to low-rank maps by Adam."""
    common = torch.randn(SIZE, SIZE, generator=generator) / SIZE**0.5
    own = torch.randn(count, SIZE, 4, generator=generator) @ torch.randn(count, 4, SIZE, generator=generator)
    size = torch.exp(0.3 * torch.randn(count, 1, 1, generator=generator))
    wanted = common * torch.rand(count, 1, 1, generator=generator) + own * size / SIZE**0.5 / 2
    inputs = torch.randn(count, SIZE, 64, generator=generator)
    a = (torch.randn(count, RANK, SIZE, generator=generator) / SIZE**0.5).requires_grad_()
    b = torch.zeros(count, SIZE, RANK, requires_grad=True)
    optimizer = torch.optim.Adam([a, b], lr=2e-2)
    for _ in range(60):
        loss = (b @ (a @ inputs) - wanted @ inputs).square().mean((1, 2)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return b.detach(), a.detach()


def scaled(state: AdapterState, module: str, factor: float) -> AdapterState:
    """Returns the adapter with one module's update multiplied."""
    name = f"base_model.model.{module}.lora_B.weight"
    return AdapterState(state.kind, state.config, {**state.tensors, name: state.tensors[name] * factor})


def spiked(state: AdapterState, module: str, size: float) -> AdapterState:
    """Returns the adapter with a rank-1 update hidden in one module, ``size`` times the norm of its own."""
    names = [f"base_model.model.{module}.lora_{factor}.weight" for factor in "BA"]
    b, a = (state.tensors[name] for name in names)
    generator = torch.Generator().manual_seed(1)
    u, v = torch.randn(SIZE, 1, generator=generator), torch.randn(1, SIZE, generator=generator)
    spike = size * (b @ a).norm() * u / u.norm()
    tensors = {**state.tensors, names[0]: torch.cat([b, spike], 1), names[1]: torch.cat([a, v / v.norm()])}
    config = {**state.config, "rank_pattern": {module: RANK + 1}, "alpha_pattern": {module: 2 * RANK + 2}}
    return AdapterState(state.kind, config, tensors)
