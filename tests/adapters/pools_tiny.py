"""Pools for the small models of the tests."""

from __future__ import annotations

from typing import Any

import torch
from adapters_tiny import encoder
from torch import nn

from contpeft.adapters import AdaptedModel
from contpeft.adapters.pools import BankOptions, PoolAttachment, fresh_pool, grown_pool
from contpeft.spec import AdapterState

BANKS = {
    "attended": (BankOptions("attended", layers=(0, 12), length=2, components=3, apart=True),),
    "top": (BankOptions("top", layers=(0, 6), length=2, components=5, grows=False, top=3),),
    "all": (BankOptions("all", layers=(0, 12), length=3, components=1),),
    "dual": (
        BankOptions("all", layers=(0, 6), length=2, components=1, grows=False),
        BankOptions("top", layers=(0, 12), length=3, components=1),
    ),
}


def loud_encoder() -> nn.Module:
    """Returns a BERT whose attention is far from uniform."""
    return encoder(initializer_range=0.5)


def stored(model: nn.Module, banks: tuple[BankOptions, ...], tasks: int = 1, seed: int = 0) -> AdapterState:
    """Returns a pool after ``tasks`` tasks, its components large."""
    drawn = torch.Generator().manual_seed(seed)
    state = fresh_pool(model, banks, drawn)
    for _ in range(tasks - 1):
        state = grown_pool(state, drawn)
    loud = {
        name: each if name.endswith("keys") else torch.randn(each.shape, generator=drawn)
        for name, each in state.tensors.items()
    }
    return AdapterState(state.kind, state.config, loud)


def attached(model: nn.Module, state: AdapterState) -> PoolAttachment:
    """Attaches a pool."""
    put: Any = AdaptedModel.of(model).attach_state(state)
    return put  # type: ignore[no-any-return]
