"""Answers: class statistics, as classifier or as router."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from contpeft.spec import Composition, Parallel, Route, Single, Version
from contpeft.strategies.context import Context
from contpeft.strategies.over import answering

__all__ = ["ByStatistics", "Classify", "ClassifyTogether", "RouteByStatistics", "statistics_of"]


@dataclass(frozen=True)
class ByStatistics:
    """Class statistics answer, once per rule they were registered under."""

    def route(self, context: Context, registered: tuple[Version, ...]) -> dict[str, Composition]:
        """Returns one composition per rule."""
        return {_rule(v): answering(v) for v in registered if v.kind == "statistics"}


@dataclass(frozen=True)
class Classify:
    """Class statistics of one rule answer everything.

    Attributes:
        rule: which of those that were registered.
    """

    rule: str = "class-means"

    def route(self, context: Context, registered: tuple[Version, ...]) -> dict[str, Composition]:
        """Returns the statistics with the features they stand over."""
        return {"main": answering(statistics_of(registered, self.rule))}


@dataclass(frozen=True)
class ClassifyTogether:
    """All class statistics of the task answer together: the product of their probabilities.

    Heads over different features err on different rows (Hinton 2002, products of experts).
    """

    def route(self, context: Context, registered: tuple[Version, ...]) -> dict[str, Composition]:
        """Returns them together as the main answer; with several, each alone beside it, by its name."""
        found = {v.name.rsplit(".", 1)[-1]: answering(v) for v in registered if v.kind == "statistics"}
        if len(found) == 1:
            return {"main": next(iter(found.values()))}
        return {"main": Parallel(tuple(found.values()), by="product"), **found}


@dataclass(frozen=True)
class RouteByStatistics:
    """Each row is answered by the adapter of the task that class statistics infer for it.

    Attributes:
        rule: the classifier that infers the task.
    """

    rule: str = "lda"

    def route(self, context: Context, registered: tuple[Version, ...]) -> dict[str, Composition]:
        """Returns the routed composition over every adapter so far, in task order."""
        router = statistics_of(registered, self.rule)
        adapters = context.adapters_with(registered)
        return {"main": Route(router.ref, tuple(Single(v.ref) for v in adapters))}


def statistics_of(registered: Sequence[Version], rule: str) -> Version:
    """Returns the statistics that were registered under a rule."""
    return next(v for v in registered if v.kind == "statistics" and _rule(v) == rule)


def _rule(version: Version) -> str:
    return str(version.head.options["rule"]) if version.head else ""
