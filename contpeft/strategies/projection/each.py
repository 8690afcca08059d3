"""Projection: several corrections one after another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from contpeft.strategies.context import Context
from contpeft.strategies.parts import Projection

__all__ = ["Each"]


@dataclass(frozen=True)
class Each:
    """One correction after the other, each of what those before it have left.

    Attributes:
        parts: in their order.
    """

    parts: tuple[Projection, ...]

    def project(self, context: Context, before: Mapping[str, Tensor]) -> None:
        """Lets each correct the update."""
        for part in self.parts:
            part.project(context, before)
