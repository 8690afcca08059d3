"""Answers: the stages a task's adapter went through."""

from __future__ import annotations

from dataclasses import dataclass

from contpeft.spec import Composition, Single, Version
from contpeft.strategies.context import Context

__all__ = ["BeforeAndAfter"]


@dataclass(frozen=True)
class BeforeAndAfter:
    """The version registered last answers; the one that was trained is measured beside it.

    Attributes:
        before: what the answer of the one that was trained is called.
    """

    before: str = "before-alignment"

    def route(self, context: Context, registered: tuple[Version, ...]) -> dict[str, Composition]:
        """Returns both."""
        adapters = [version for version in registered if version.adapts]
        return {"main": Single(adapters[-1].ref), self.before: Single(adapters[0].ref)}
