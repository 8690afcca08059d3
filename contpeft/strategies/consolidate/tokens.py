"""Consolidate: which tokens the classes hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from contpeft.adapters import TokenStatistics
from contpeft.spec import Tokens, Version, View
from contpeft.strategies.about import About
from contpeft.strategies.consolidate.gathering import Gathering, Taken
from contpeft.strategies.context import Context

__all__ = ["GatherTokens"]

_RULE = "tokens"


@dataclass(frozen=True)
class GatherTokens(Gathering):
    """How many rows of each class hold each token: naive Bayes, for what an encoder blurs.

    An encoder that was trained on sentences hardly tells apart what differs in a name or a term of art.
    Counts do, at no pass through the model, and nothing of an old class changes when new ones come.

    Attributes:
        prior: how many tokens of the usual mixture each class is taken to have held beforehand.
    """

    about: ClassVar[About] = About(
        paper="McCallum and Nigam 1998, AAAI workshop on learning for text categorization",
        growth="4 bytes a class and token met",
        needs=frozenset({"examples", "texts"}),
    )

    prior: float = 1000.0

    def parts(self, context: Context) -> tuple[View, ...]:
        """Returns what is counted."""
        return (Tokens(),)

    def check(self, context: Context) -> None:
        """Raises :class:`UnsupportedError` if the rows are no texts."""
        data = self.data(context)
        context.features.tokens(data.inputs[:1], f"first of {data.digest}")

    def end(self, context: Context, trained: Version | None) -> tuple[Version, ...]:
        """Adds the task to the counts and registers them."""
        return (self.take(context, trained).register(1.0),)

    def take(self, context: Context, trained: Version | None) -> Taken:
        """Adds the task to the counts."""
        data, last, rows = self.data(context), self.last(context, _RULE), self.features(context)
        counts = TokenStatistics(self.prior) if last is None else TokenStatistics.from_stored(*last)
        counts.update(rows, data.labels, group=context.step)
        return Taken(
            lambda: counts.left_out(rows, data.labels, context.step),
            lambda temperature: self.register(
                context, _RULE, counts.tensors(), counts.spec(self.told(context), temperature)
            ),
        )
