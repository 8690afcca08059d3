"""Which rows a buffer keeps: as many as fit, by rank, over all rows or class by class."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

import torch

from contpeft.digest import json_digest
from contpeft.errors import SpecError
from contpeft.strategies.replay.buffer import Buffer, Row

__all__ = ["Bounds", "keep_balanced", "keep_first", "random_ranks"]


@dataclass(frozen=True)
class Bounds:
    """How large a buffer may get.

    Attributes:
        size: of its tensors, in bytes.
        rows: how many rows at most; None for as many as fit.
    """

    size: int
    rows: int | None = None

    def hold(self, count: int, size: int) -> bool:
        """Returns whether so many rows of so many bytes together are allowed."""
        return size <= self.size and (self.rows is None or count <= self.rows)

    def check(self, rows: Sequence[Row]) -> None:
        """Checks that each row alone would fit.

        Raises:
            SpecError: if one would not.
        """
        widest = max((row.nbytes for row in rows), default=0)
        if widest > self.size:
            raise SpecError(
                f"a replay buffer of {self.size} bytes cannot hold a row of {widest}; make it larger"
            )


def random_ranks(count: int, seed: int) -> list[float]:
    """Returns ranks that are independent and uniform in 0 to 1.

    Args:
        count: how many.
        seed: of the task.
    """
    drawn = torch.Generator().manual_seed(int(json_digest([seed, "buffer"])[:15], 16))
    ranks: list[float] = torch.rand(count, generator=drawn, dtype=torch.float64).tolist()
    return ranks


def keep_first(buffer: Buffer, bounds: Bounds) -> Buffer:
    """Returns the rows of the lowest ranks, as many as fit, in the order in which they came.

    With uniform random ranks this is a reservoir: of ``n`` rows of equal size each is kept with probability
    ``capacity / n`` (Vitter 1985, "Random Sampling with a Reservoir", by keys in the place of slots). A row
    that comes later stands back, too, where one of a lower rank had to: what is left after many tasks is
    what one choice among all their rows would have left, whatever their sizes.

    Raises:
        SpecError: if a row is larger than the whole buffer.
    """
    rows, below = buffer.rows, buffer.below
    bounds.check(rows)
    kept: set[int] = set()
    size = 0
    for index in sorted(range(len(rows)), key=lambda index: rows[index].rank):
        rank, size = rows[index].rank, size + rows[index].nbytes
        if (below is not None and rank >= below) or not bounds.hold(len(kept) + 1, size):
            below = rank if below is None else min(below, rank)
            break
        kept.add(index)
    return Buffer(_chosen(rows, kept), below)


def keep_balanced(buffer: Buffer, bounds: Bounds) -> Buffer:
    """Returns the rows of the lowest ranks of each class, in the order in which they came.

    While there is too much, the largest class loses its row of the highest rank; of classes of one size the
    one that came first. So the numbers of rows of two classes differ by at most one, unless a class was never
    offered as many.

    Raises:
        SpecError: if a row is larger than the whole buffer.
    """
    rows = buffer.rows
    bounds.check(rows)
    classes: dict[str, list[int]] = {row.label: [] for row in rows}
    for index in sorted(range(len(rows)), key=lambda index: rows[index].rank):
        classes[rows[index].label].append(index)
    count, size = len(rows), sum(row.nbytes for row in rows)
    while not bounds.hold(count, size):
        dropped = max(classes.values(), key=len).pop()
        count, size = count - 1, size - rows[dropped].nbytes
    return Buffer(_chosen(rows, {index for each in classes.values() for index in each}))


def _chosen(rows: Sequence[Row], kept: Container[int]) -> tuple[Row, ...]:
    return tuple(row for index, row in enumerate(rows) if index in kept)
