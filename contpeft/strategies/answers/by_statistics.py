"""Answers: class statistics of the frozen base, as classifier or as router."""

from __future__ import annotations

from dataclasses import dataclass

from contpeft.adapters import Rule
from contpeft.spec import Composition, Route, Single, Version
from contpeft.strategies.context import Context

__all__ = ["ByStatistics", "RouteByStatistics"]


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
        adapters = context.adapters_with(registered)
        return {"main": Route(router.ref, tuple(Single(v.ref) for v in adapters))}


def _rule(version: Version) -> str:
    return str(version.head.options["rule"]) if version.head else ""
