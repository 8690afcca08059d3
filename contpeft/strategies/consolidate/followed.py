"""Consolidate: class statistics that follow an adapter that is trained on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from contpeft.adapters import ClassStatistics, Drift, Rule
from contpeft.errors import SpecError, UnsupportedError
from contpeft.spec import Version
from contpeft.strategies.about import LATER, About
from contpeft.strategies.consolidate.gathering import OverNamed
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
        rule: of the classifier that is registered.
        shrinkage: of the covariance towards a multiple of the identity, for ``"lda"``.
        drift_ridge: of the map, see :class:`contpeft.adapters.Drift`.
        calibrate: whether scores get a temperature, measured on the task's rows, each left out. It changes no
            answer of its own, and counts where several heads answer together.
        over: whose features; ``"last+base"`` puts those of the bare base beside, which never move.

    Raises:
        SpecError: if another rule than LDA is to be calibrated.
    """

    about: ClassVar[About] = About(
        paper="Gomez-Villa et al. 2024, arXiv 2407.08536; Rypesc et al. 2024, arXiv 2409.18265",
        growth="d a class; d x d once",
        needs=frozenset({"examples", "features"}),
    )

    rule: Rule = "lda"
    shrinkage: float = 0.2
    drift_ridge: float = 1.0
    calibrate: bool = field(default=False, metadata={LATER: True})
    over: Over = field(default="last", kw_only=True)

    def __post_init__(self) -> None:
        if self.calibrate and self.rule != "lda":
            raise SpecError(f"rule {self.rule!r} cannot leave rows out, so it is not calibrated; use 'lda'")

    def end(self, context: Context, trained: Version | None) -> tuple[Version, ...]:
        """Takes the statistics along, adds the task's, and registers them.

        Raises:
            UnsupportedError: if the task trained no adapter to follow.
        """
        if trained is None:
            raise UnsupportedError("statistics that follow an adapter need one that is trained at every task")
        data, now, last = self.data(context), self.features(context), self.last(context, self.rule)
        statistics = ClassStatistics() if last is None else ClassStatistics.from_stored(*last)
        if last is not None:
            before = sources(self.over, context.adapters, self.layers)
            read = context.features.through(before, context.load, data.inputs, data.digest)
            statistics.follow(Drift.between(read, now, self.drift_ridge))
        statistics.update(now, data.labels, group=context.step)
        temperature = 1.0
        if self.calibrate:
            temperature = statistics.temperature(now, data.labels, context.step, self.shrinkage)
        spec = statistics.spec(self.rule, self.shrinkage, over=self.told(context), temperature=temperature)
        return (self.register(context, self.rule, statistics.tensors(), spec),)
