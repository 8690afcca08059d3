"""Consolidate: class statistics that follow an adapter that is trained on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from contpeft.adapters import ClassStatistics, Drift, LeftOut, Rule
from contpeft.errors import UnsupportedError
from contpeft.spec import Version
from contpeft.strategies.about import About
from contpeft.strategies.consolidate.gathering import OverNamed, Taken
from contpeft.strategies.context import Context
from contpeft.strategies.over import Over, sources

__all__ = ["FollowStatistics"]


@dataclass(frozen=True)
class FollowStatistics(OverNamed):
    """Class means and a shared covariance of the adapter's features, moved along as it is trained on.

    Old classes have no rows left that the new state could read. But the task's own rows are read by both
    states; an affine map between the two, fitted on them, takes means and covariance along. Gomez-Villa et
    al. 2024 move prototypes so (a map learnt by gradient descent), Rypesc et al. 2024 the means and
    covariances of Gaussians (a small network). Here it is ridge regression of the change, which has one
    solution, and one covariance for all classes.

    Attributes:
        rule: of the classifier that is registered; ``"lda"`` to be weighed with others.
        shrinkage: of the covariance towards a multiple of the identity, for ``"lda"``.
        drift_ridge: of the map, see :class:`contpeft.adapters.Drift`.
        over: whose features; ``"last+base"`` puts those of the bare base beside, which never move.
    """

    about: ClassVar[About] = About(
        paper="Gomez-Villa et al. 2024, arXiv 2407.08536; Rypesc et al. 2024, arXiv 2409.18265",
        growth="d a class; d x d once",
        needs=frozenset({"examples", "features"}),
    )

    rule: Rule = "lda"
    shrinkage: float = 0.2
    drift_ridge: float = 1.0
    over: Over = field(default="last", kw_only=True)

    def end(self, context: Context, trained: Version | None) -> tuple[Version, ...]:
        """Takes the statistics along, adds the task's, and registers them.

        Raises:
            UnsupportedError: if the task trained no adapter to follow.
        """
        return (self.take(context, trained).register(1.0),)

    def take(self, context: Context, trained: Version | None) -> Taken:
        """Takes the statistics along and adds the task's.

        What they say of rows left out leaves the adapter out too: it is told through that of the task before,
        at the first through the bare base. Rows it was trained on lie closer to their means than others will.

        Raises:
            UnsupportedError: if the task trained no adapter to follow.
        """
        if trained is None:
            raise UnsupportedError("statistics that follow an adapter need one that is trained at every task")
        data, now, last = self.data(context), self.features(context), self.last(context, self.rule)
        statistics = ClassStatistics() if last is None else ClassStatistics.from_stored(*last)
        if last is not None:
            statistics.follow(Drift.between(self._before(context), now, self.drift_ridge))
        statistics.update(now, data.labels, group=context.step)

        def left_out() -> LeftOut:
            earlier = ClassStatistics() if last is None else ClassStatistics.from_stored(*last)
            rows = self._before(context)
            earlier.update(rows, data.labels, group=context.step)
            return earlier.left_out(rows, data.labels, context.step, self.shrinkage)

        def register(temperature: float) -> Version:
            spec = statistics.spec(
                self.rule, self.shrinkage, over=self.told(context), temperature=temperature
            )
            return self.register(context, self.rule, statistics.tensors(), spec)

        return Taken(left_out, register)

    def _before(self, context: Context) -> Tensor:
        """Returns the task's features ``(n, d)`` as they were before it was trained on."""
        data, over = self.data(context), self.over if context.adapters else "base"
        views = sources(over, context.adapters, self.layers)
        if over != self.over:
            views *= len(self.parts(context))
        return context.features.through(views, context.load, data.inputs, data.digest)
