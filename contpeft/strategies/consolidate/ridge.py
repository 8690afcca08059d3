"""Consolidate: ridge regression on random features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from contpeft.adapters import RidgeStatistics
from contpeft.spec import Version
from contpeft.strategies.about import About
from contpeft.strategies.consolidate.gathering import OverNamed, Taken
from contpeft.strategies.context import Context

__all__ = ["GatherRidge"]

_RULE = "ridge"


@dataclass(frozen=True)
class GatherRidge(OverNamed):
    """The sums that ridge regression on random features needs, one pass over the task (RanPAC).

    Attributes:
        width: how many random features, ``M``; 0 for ridge regression on the features themselves.
        seed: of the random features, the same for all tasks.
        penalty: fixed; or how it is chosen after each task: ``"gcv"`` by generalised cross-validation over
            the rows of all tasks, ``"held-out"`` on a fifth of the task's own, as the authors' code does.
        over: whose features.
    """

    about: ClassVar[About] = About(
        paper="McDonnell et al. 2023, arXiv 2307.02251, algorithm 1",
        growth="16 M a class; 4 M^2 bytes once (16 MB for M = 2000)",
        needs=frozenset({"examples", "features"}),
    )

    width: int = 2000
    seed: int = 0
    penalty: float | Literal["gcv", "held-out"] = "gcv"

    def end(self, context: Context, trained: Version | None) -> tuple[Version, ...]:
        """Adds the task to the sums, solves, and registers both."""
        return (self.take(context, trained).register(1.0),)

    def take(self, context: Context, trained: Version | None) -> Taken:
        """Adds the task to the sums and chooses the penalty."""
        data, last, features = self.data(context), self.last(context, _RULE), self.features(context)
        sums = RidgeStatistics(self.width, self.seed)
        if last is not None:
            sums = RidgeStatistics.from_stored(*last, width=features.shape[1])
        sums.update(features, data.labels, group=context.step)
        penalty = self._penalty(sums, features, data.labels)

        def register(temperature: float) -> Version:
            spec = sums.spec(penalty, self.told(context), temperature)
            return self.register(context, _RULE, sums.tensors(penalty), spec)

        return Taken(lambda: sums.left_out(features, data.labels, context.step, penalty), register)

    def _penalty(self, sums: RidgeStatistics, features: Tensor, labels: Sequence[str]) -> float:
        if self.penalty == "gcv":
            return sums.gcv_penalty()
        if self.penalty == "held-out":
            return sums.held_out_penalty(features, labels)
        return self.penalty
