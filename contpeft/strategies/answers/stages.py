"""Answers: the stages a task's adapter went through."""

from __future__ import annotations

from dataclasses import dataclass

from contpeft.spec import Composition, Single, Version
from contpeft.strategies.context import Context

__all__ = ["BeforeAndAfter"]


@dataclass(frozen=True)
class BeforeAndAfter:
    """The adapter as the task left it answers; as it was trained it is measured beside it.

    Attributes:
        before: what the answer of the one that was trained is called.
    """

    before: str = "before-alignment"

    def route(self, context: Context, registered: tuple[Version, ...]) -> dict[str, Composition]:
        """Returns both."""
        left = context.adapters_with(registered)[-1]
        return {"main": Single(left.ref), self.before: Single(registered[0].ref)}
