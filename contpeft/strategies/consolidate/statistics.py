"""Consolidate: class statistics of features that stay as they are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from contpeft.adapters import ClassStatistics, Rule
from contpeft.errors import SpecError
from contpeft.spec import Version
from contpeft.strategies.about import LATER, About
from contpeft.strategies.consolidate.gathering import OverNamed, Taken
from contpeft.strategies.context import Context

__all__ = ["GatherStatistics"]


@dataclass(frozen=True)
class GatherStatistics(OverNamed):
    """Class means and a shared covariance of features, one pass over the task, no old data kept.

    Attributes:
        rules: the classifiers to register over the same statistics.
        shrinkage: of the covariance towards a multiple of the identity, for ``"lda"``.
        ridge: added to the covariance in units of its mean variance, for ``"mahalanobis"``.
        width: to how many random features, as :class:`GatherRidge` has them, the features are lifted first; 0
            for none.
        seed: of the random features, the same for all tasks.
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
    width: int = field(default=0, metadata={LATER: True})
    seed: int = field(default=0, metadata={LATER: True})

    def keeps(self) -> str:
        """Returns what is kept, which depends on the width."""
        return "M a class; 8 M^2 bytes once (32 MB for M = 2000)" if self.width else self.about.growth

    def called(self, rule: str) -> str:
        """Returns the rule, whose features, and whether they are lifted."""
        return f"{super().called(rule)}-lifted" if self.width else super().called(rule)

    def end(self, context: Context, trained: Version | None) -> tuple[Version, ...]:
        """Adds the task to the statistics and registers a version of them per rule."""
        statistics = self._with_task(context)
        return tuple(self._registered(context, statistics, rule) for rule in self.rules)

    def take(self, context: Context, trained: Version | None) -> Taken:
        """Adds the task to the statistics of LDA.

        Raises:
            SpecError: if the rule is another, or there are several.
        """
        if self.rules != ("lda",):
            raise SpecError(f"rules {', '.join(self.rules)} cannot leave rows out; weigh statistics of 'lda'")
        statistics, features, data = self._with_task(context), self.features(context), self.data(context)
        return Taken(
            lambda: statistics.left_out(features, data.labels, context.step, self.shrinkage),
            lambda temperature: self._registered(context, statistics, "lda", temperature),
        )

    def _with_task(self, context: Context) -> ClassStatistics:
        last = self.last(context, self.rules[0])
        fresh = ClassStatistics(self.width, self.seed)
        statistics = fresh if last is None else ClassStatistics.from_stored(*last)
        statistics.update(self.features(context), self.data(context).labels, group=context.step)
        return statistics

    def _registered(
        self, context: Context, statistics: ClassStatistics, rule: Rule, temperature: float = 1.0
    ) -> Version:
        spec = statistics.spec(rule, self.shrinkage, self.ridge, self.told(context), temperature)
        return self.register(context, rule, statistics.tensors(), spec)
