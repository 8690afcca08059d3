"""Consolidate: a few features of every class are kept, and a router learnt from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from contpeft.adapters import KeptFeatures
from contpeft.spec import Version
from contpeft.strategies.about import About
from contpeft.strategies.consolidate.gathering import OverNamed
from contpeft.strategies.context import Context

__all__ = ["KeepFeatures"]


@dataclass(frozen=True)
class KeepFeatures(OverNamed):
    """A few features of every class, for a learned gate or for the nearest of them to decide.

    Attributes:
        rule: ``"gate"`` learns a softmax regression over what is kept; ``"nearest"`` asks the nearest, as one
            retrieves adapters by embeddings of examples (Zhao et al. 2024, "LoraRetriever", arXiv 2402.09997,
            section 3.2; there the mean embedding of an adapter's examples, one for each task).
        each: how many features of a class are kept at most.
        neighbours: how many of them count, for ``"nearest"``.
        over: whose features.
    """

    about: ClassVar[About] = About(
        paper="Rebuffi et al. 2017, arXiv 1611.07725, algorithm 4 (what is kept)",
        growth="10 d a class",
        needs=frozenset({"examples", "features"}),
    )

    rule: Literal["gate", "nearest"] = "gate"
    each: int = 10
    neighbours: int = 3

    def end(self, context: Context, trained: Version | None) -> tuple[Version, ...]:
        """Keeps features of the task's classes, learns, and registers."""
        last = self.last(context, self.rule)
        kept = KeptFeatures(self.each) if last is None else KeptFeatures.from_stored(*last)
        kept.update(self.features(context), self.data(context).labels, group=context.step)
        spec = kept.spec(self.rule, self.neighbours, self.told(context))
        return (self.register(context, self.rule, kept.tensors(self.rule), spec),)
