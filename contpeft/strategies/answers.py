"""Parts: which compositions answer after a task."""

from __future__ import annotations

from dataclasses import dataclass

from contpeft.adapters import Rule
from contpeft.spec import Composition, Route, Single, Version
from contpeft.strategies.context import Context
from contpeft.strategies.init import stack_of

__all__ = ["ByStatistics", "Latest", "RouteByStatistics", "Stacked"]


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
        adapters = [v for v in (*context.history, *registered) if v.kind != "statistics"]
        return {"main": stack_of(adapters)}


@dataclass(frozen=True)
class ByStatistics:
    """Class statistics of the frozen base answer, once per rule they were registered under."""

    def route(self, context: Context, registered: tuple[Version, ...]) -> dict[str, Composition]:
        """Returns one composition per rule."""
        return {_rule(v): Single(v.ref) for v in registered if v.kind == "statistics"}


@dataclass(frozen=True)
class RouteByStatistics:
    """Each row is answered by the adapter of the task that class statistics infer for it.

    Attributes:
        rule: the classifier that infers the task.
    """

    rule: Rule = "lda"

    def route(self, context: Context, registered: tuple[Version, ...]) -> dict[str, Composition]:
        """Returns the routed composition over every adapter so far, in task order."""
        router = next(v for v in registered if v.kind == "statistics" and _rule(v) == self.rule)
        adapters = [v for v in (*context.history, *registered) if v.kind != "statistics"]
        return {"main": Route(router.ref, tuple(Single(v.ref) for v in adapters))}


def _rule(version: Version) -> str:
    return str(version.head.options["rule"]) if version.head else ""
