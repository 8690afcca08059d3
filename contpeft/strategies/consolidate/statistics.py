"""Consolidate: class statistics of features that stay as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from contpeft.adapters import ClassStatistics, Rule
from contpeft.spec import Version
from contpeft.strategies.about import About
from contpeft.strategies.consolidate.gathering import OverNamed
from contpeft.strategies.context import Context

__all__ = ["GatherStatistics"]


@dataclass(frozen=True)
class GatherStatistics(OverNamed):
    """Class means and a shared covariance of features, one pass over the task, no old data kept.

    Attributes:
        rules: the classifiers to register over the same statistics.
        shrinkage: of the covariance towards a multiple of the identity, for ``"lda"``.
        ridge: added to the covariance in units of its mean variance, for ``"mahalanobis"``.
        over: whose features.
    """

    about: ClassVar[About] = About(
        paper="Hayes and Kanan 2020, CVPR workshops; Zhou et al. 2023, arXiv 2303.07338",
        growth="d a class; d x d once",
        needs=frozenset({"examples", "features"}),
    )

    rules: tuple[Rule, ...] = ("lda",)
    shrinkage: float = 0.1
    ridge: float = 0.01

    def end(self, context: Context, trained: Version | None) -> tuple[Version, ...]:
        """Adds the task to the statistics and registers a version of them per rule."""
        data, last = self.data(context), self.last(context, self.rules[0])
        statistics = ClassStatistics() if last is None else ClassStatistics.from_stored(*last)
        statistics.update(self.features(context), data.labels, group=context.step)
        tensors, over = statistics.tensors(), self.told(context)
        specs = {rule: statistics.spec(rule, self.shrinkage, self.ridge, over) for rule in self.rules}
        return tuple(self.register(context, rule, tensors, spec) for rule, spec in specs.items())
