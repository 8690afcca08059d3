"""Rows as the hidden states below the adapter, in the place of what was read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from contpeft.adapters import FrozenPrefix
from contpeft.errors import UnsupportedError
from contpeft.strategies.context import Context
from contpeft.strategies.features import as_classifier, evaluating, on_device
from contpeft.strategies.replay.buffer import Row
from contpeft.strategies.replay.codec import from_bytes, to_bytes

__all__ = ["STATES", "reading_states", "with_states"]

STATES = "states"
_MASK = "attention_mask"
_DOES = "latent replay"


def with_states(context: Context, rows: Sequence[Row]) -> tuple[Row, ...]:
    """Returns rows that hold their hidden states ``(T, d)`` below the adapter, and no input any more.

    What stays of the input is the names, types and shapes of what ``collate`` makes of it.

    Args:
        context: the task at hand, its adapter attached.
        rows: those that have states already are returned as they are.

    Raises:
        UnsupportedError: if the adapter changes the first layer, the model's layers are not known, or the
            module does not collate rows into named tensors.
    """
    with evaluating(context.adapted.module):
        return tuple(row if STATES in row.more else _with_states(context, row) for row in rows)


@contextmanager
def reading_states(context: Context, rows: Sequence[Row]) -> Iterator[dict[str, Tensor]]:
    """Yields a batch to call the module with inside the block, where it reads the rows' hidden states."""
    states = [row.more[STATES].to(context.adapted.device) for row in rows]
    told = [from_bytes(row.content) for row in rows]
    width = max(map(len, states))
    batch = {
        name: _blank(name, [each[name] for each in told], list(map(len, states)), width) for name in told[0]
    }
    with _prefix(context).resumed(states):
        yield on_device(batch, context.adapted.device)


def _with_states(context: Context, row: Row) -> Row:
    classifier = as_classifier(context.adapted.module, _DOES)
    batch = classifier.collate([from_bytes(row.content)])
    if not isinstance(batch, dict) or not all(isinstance(value, Tensor) for value in batch.values()):
        raise UnsupportedError(
            f"{_DOES} needs a module whose collate() returns tensors by name, not {type(batch).__name__}; "
            "use plain replay"
        )
    told = {
        name: [str(value.dtype).removeprefix("torch."), list(value.shape)] for name, value in batch.items()
    }
    prefix = _prefix(context)
    with prefix:
        classifier.encode(on_device(batch, context.adapted.device))
    return replace(row, content=to_bytes(told), more={**row.more, STATES: prefix.read[0].cpu()})


def _prefix(context: Context) -> FrozenPrefix:
    prefix = context.once("prefix of latent replay", lambda: FrozenPrefix(context.adapted))
    prefix.check(_DOES)
    return prefix


def _blank(name: str, told: Sequence[Any], lengths: Sequence[int], width: int) -> Tensor:
    """Returns zeros as wide as the longest row for what was read; a mask tells the lengths of rows."""
    dtype, shape = getattr(torch, told[0][0]), told[0][1]
    if len(shape) != 2:
        return torch.zeros([], dtype=dtype).expand(len(told), *shape[1:])
    if name != _MASK:
        return torch.zeros(len(told), width, dtype=dtype)
    return (torch.arange(width) < torch.tensor(lengths).unsqueeze(1)).to(dtype)
