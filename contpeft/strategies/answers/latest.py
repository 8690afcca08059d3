"""Answers: what was learnt last."""

from __future__ import annotations

from dataclasses import dataclass

from contpeft.spec import Composition, Single, Version
from contpeft.strategies.context import Context
from contpeft.strategies.init import stack_of

__all__ = ["Latest", "Stacked"]


@dataclass(frozen=True)
class Latest:
    """The version trained last answers everything."""

    def route(self, context: Context, registered: tuple[Version, ...]) -> dict[str, Composition]:
        """Returns the version just registered."""
        return {"main": Single(registered[0].ref)}


@dataclass(frozen=True)
class Stacked:
    """All adapters so far answer one over the other, with the head of the last."""

    def route(self, context: Context, registered: tuple[Version, ...]) -> dict[str, Composition]:
        """Returns the stack over every adapter so far, in task order."""
        return {"main": stack_of(context.adapters_with(registered))}
