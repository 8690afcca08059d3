"""Consolidate: several things one after another."""

from __future__ import annotations

from dataclasses import dataclass

from contpeft.spec import Version
from contpeft.strategies.context import Context
from contpeft.strategies.parts import Consolidate

__all__ = ["Then"]


@dataclass(frozen=True)
class Then:
    """One part after the other; each sees in ``context.registered`` what those before it registered.

    Attributes:
        parts: in their order.
    """

    parts: tuple[Consolidate, ...]

    def end(self, context: Context, trained: Version | None) -> tuple[Version, ...]:
        """Returns what all of them registered."""
        made: tuple[Version, ...] = ()
        for part in self.parts:
            new = part.end(context, trained)
            context.registered += new
            made += new
        return made
