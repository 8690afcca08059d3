"""Penalty: several terms added up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from contpeft.strategies.context import Context
from contpeft.strategies.parts import Penalty

__all__ = ["Plus"]


@dataclass(frozen=True)
class Plus:
    """The sum of several penalties.

    Attributes:
        parts: in the order in which they are computed.
    """

    parts: tuple[Penalty, ...]

    def loss(self, context: Context, batch: Any, outputs: Any) -> Tensor | None:
        """Returns the sum of those that have something to add, a scalar; None if none has."""
        terms = [part.loss(context, batch, outputs) for part in self.parts]
        added = [term for term in terms if term is not None]
        return sum(added[1:], start=added[0]) if added else None
