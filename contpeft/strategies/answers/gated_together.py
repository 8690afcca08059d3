"""Answers: all adapters with gates, weighed row by row."""

from __future__ import annotations

from dataclasses import dataclass

from contpeft.spec import Composition, Gated, Version
from contpeft.strategies.context import Context

__all__ = ["GatedTogether"]


@dataclass(frozen=True)
class GatedTogether:
    """All adapters so far answer together, each row by its own weighted sum, with the head of the last."""

    def route(self, context: Context, registered: tuple[Version, ...]) -> dict[str, Composition]:
        """Returns the composition of every adapter so far, in task order."""
        return {"main": Gated(tuple(version.ref for version in context.adapters_with(registered)))}
