"""Rows of the buffer beside a batch: which, and what the model says of them now."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from contpeft.adapters import ClassHead, competing
from contpeft.digest import json_digest
from contpeft.errors import SpecError
from contpeft.strategies.context import Context
from contpeft.strategies.features import as_classifier, on_device
from contpeft.strategies.replay.buffer import Buffer, Row
from contpeft.strategies.replay.codec import from_bytes
from contpeft.strategies.replay.latent import STATES, reading_states

__all__ = ["draw", "positions", "scores_of"]


def draw(context: Context, count: int, who: str) -> list[Row]:
    """Returns rows of the buffer drawn without replacement, others at every call; none if it is empty.

    How often was drawn is kept in checkpoints, so that a resumed fit goes on with the same rows.

    Args:
        context: the task at hand.
        count: how many, at most.
        who: names the draw; draws of two names are independent.
    """
    buffer = context.once("replay buffer", lambda: Buffer.of(context.recall("buffer")))
    if not buffer.rows:
        return []
    key = f"replay.{who}"
    times = int(context.working.get(key, torch.tensor(0)))
    context.working[key] = torch.tensor(times + 1)
    seed = int(json_digest([context.seed, key, times])[:15], 16)
    order = torch.randperm(len(buffer.rows), generator=torch.Generator().manual_seed(seed))
    return [buffer.rows[index] for index in order[:count].tolist()]


def scores_of(context: Context, rows: Sequence[Row]) -> Tensor:
    """Returns the scores ``(n, C)`` of rows, gradients flowing; all classes of the head compete."""
    adapted = context.adapted
    with context.unheard(), competing(adapted.head), _read(context, rows) as batch:
        scores: Tensor = adapted.module(batch)
    return scores


@contextmanager
def _read(context: Context, rows: Sequence[Row]) -> Iterator[Any]:
    """Yields the batch that stands for rows inside the block."""
    if STATES in rows[0].more:
        with reading_states(context, rows) as batch:
            yield batch
        return
    classifier = as_classifier(context.adapted.module, "replay")
    yield on_device(classifier.collate([from_bytes(row.content) for row in rows]), context.adapted.device)


def positions(context: Context, rows: Sequence[Row]) -> Tensor:
    """Returns the outputs ``(n,)`` of the head that stand for the labels of rows.

    Raises:
        SpecError: if the head does not know its labels, or lacks one.
    """
    head = context.adapted.head
    known: list[str] = list(head.classes) if isinstance(head, ClassHead) else []
    lacking = sorted({row.label for row in rows} - set(known))
    if lacking:
        raise SpecError(
            f"the head of task {context.task.name!r} does not know the classes of replayed rows "
            f"{', '.join(lacking)}; use a head that grows"
        )
    return torch.tensor([known.index(row.label) for row in rows], device=context.adapted.device)
