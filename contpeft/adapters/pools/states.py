"""Pools as they are stored: how one begins, and what a new task adds to it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from contpeft.adapters.pools.options import BankOptions, Sizes, sizes_of
from contpeft.errors import SpecError
from contpeft.spec import AdapterState

__all__ = ["POOL", "banks_of", "fresh_pool", "grown_pool", "tensors_of"]

POOL: Final = "prompt_pool"
"""The kind of versions that hold a pool; PEFT knows none."""

_STD: Final = 0.02  # of components that need not be orthogonal


def fresh_pool(model: nn.Module, banks: Sequence[BankOptions], generator: Generator) -> AdapterState:
    """Returns a pool for a model, with the components of its first task.

    Args:
        model: the transformers model.
        banks: what it is made of.
        generator: draws the components.

    Raises:
        UnsupportedError: if the model is no encoder, or its attention takes no prefix.
        SpecError: if it is not deep enough, or there are more components than directions.
    """
    sizes = sizes_of(model)
    placed = [each for bank in banks for each in bank.placed(sizes.depth)]
    drawn = [_first(bank, sizes, generator) for bank in placed]
    return _state([bank.to_json() for bank in placed], drawn)


def grown_pool(state: AdapterState, generator: Generator) -> AdapterState:
    """Returns a stored pool with the components of one more task, in the banks that grow; it has no head.

    Args:
        state: the pool; the components it has are in the new one, bit for bit.
        generator: draws the new ones.

    Raises:
        SpecError: if there are more components than directions.
    """
    banks = banks_of(state)
    grown = [
        _more(bank, tensors, generator) if bank.grows else tensors
        for bank, tensors in zip(banks, tensors_of(state.adapter_tensors(), len(banks)), strict=True)
    ]
    return _state(state.config["banks"], grown)


def banks_of(state: AdapterState) -> list[BankOptions]:
    """Returns what a stored pool is made of."""
    return [BankOptions.from_json(each) for each in state.config["banks"]]


def tensors_of(tensors: Mapping[str, Tensor], banks: int) -> list[dict[str, Tensor]]:
    """Returns the tensors of each bank of a stored pool, under their names in it."""
    return [
        {name.removeprefix(start): each for name, each in tensors.items() if name.startswith(start)}
        for start in (f"{number}." for number in range(banks))
    ]


def _state(banks: Sequence[Mapping[str, Any]], tensors: Sequence[Mapping[str, Tensor]]) -> AdapterState:
    return AdapterState(POOL, {"banks": list(banks)}, _named(tensors))


def _named(tensors: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {f"{number}.{name}": each for number, own in enumerate(tensors) for name, each in own.items()}


def _first(bank: BankOptions, sizes: Sizes, generator: Generator) -> dict[str, Tensor]:
    layers = bank.layers[1] - bank.layers[0]
    none = {"components": torch.zeros(0, layers, 2, bank.length, sizes.width)}
    if bank.weighting != "all":
        none["keys"] = torch.zeros(0, sizes.query)
    if bank.weighting == "attended":
        none["attention"] = torch.zeros(0, sizes.query)
    return _more(bank, none, generator)


def _more(bank: BankOptions, tensors: Mapping[str, Tensor], generator: Generator) -> dict[str, Tensor]:
    """Returns tensors with new rows below the others, orthogonal to them where queries are attended."""
    draw = _orthogonal if bank.weighting == "attended" else _random
    return {
        name: torch.cat([rows, draw(name, rows, bank.components, generator)])
        for name, rows in sorted(tensors.items())  # as they are drawn
    }


def _random(name: str, rows: Tensor, count: int, generator: Generator) -> Tensor:
    drawn = torch.randn(count, *rows.shape[1:], generator=generator)
    return F.normalize(drawn, dim=-1) if name == "keys" else _STD * drawn


def _orthogonal(name: str, rows: Tensor, count: int, generator: Generator) -> Tensor:
    """Returns unit rows orthogonal to those there and to each other (Smith et al. 2023, section 4.3)."""
    width = math.prod(rows.shape[1:])
    if len(rows) + count > width:
        raise SpecError(
            f"{len(rows)} + {count} components are more than the {width} directions of their {name}; give "
            "fewer for each task"
        )
    before, _ = torch.linalg.qr(rows.flatten(1).double().T)
    drawn = torch.randn(count, width, generator=generator).double().T
    for _ in range(2):  # once more for what rounding left
        drawn, _ = torch.linalg.qr(drawn - before @ (before.T @ drawn))
    return drawn.T.to(rows.dtype).reshape(count, *rows.shape[1:])
