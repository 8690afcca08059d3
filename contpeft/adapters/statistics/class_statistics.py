"""Means, counts and one shared scatter: what the rules of Gaussians with one covariance need.

One pass over each task, no old data. Features are scaled to unit length first; where they are lifted to
random ones, so are these. Everything is float64, so that the order of tasks and the cutting into batches do
not show.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from contpeft.adapters.statistics.drift import Drift
from contpeft.adapters.statistics.gathering import Gathered, LeftOut, head_options, unit_length
from contpeft.adapters.statistics.left_out import lda_left_out
from contpeft.adapters.statistics.lifting import RandomFeatures
from contpeft.errors import SpecError, suggest
from contpeft.spec import HeadSpec

__all__ = ["RULES", "ClassStatistics", "Rule"]

Rule = Literal["class-means", "lda", "mahalanobis", "oas"]
RULES: tuple[Rule, ...] = ("class-means", "lda", "mahalanobis", "oas")


class ClassStatistics(Gathered):
    """Means, counts and the pooled within-class scatter of unit-length features.

    Updated exactly from batches of any size (Chan, Golub and LeVeque 1983, "Algorithms for
    Computing the Sample Variance"). The same label met in two tasks keeps a mean per task.

    Args:
        width: to how many random features ``relu(Wr' f)`` the features are lifted first, as RanPAC does
            (McDonnell et al. 2023, arXiv 2307.02251, section 3); 0 for the features themselves.
        seed: of ``Wr``, which is not kept.

    Attributes:
        labels: label of each entry.
        groups: the task index of each entry.
        means: ``(C, d)``, float64.
        counts: ``(C,)``, float64.
        scatter: ``(d, d)``, float64: sum over entries of ``(f - mean)(f - mean)'``.
    """

    def __init__(self, width: int = 0, seed: int = 0) -> None:
        super().__init__()
        self._lift = RandomFeatures(width, seed)
        self.means = torch.empty(0, 0, dtype=torch.float64)
        self.counts = torch.empty(0, dtype=torch.float64)
        self.scatter = torch.empty(0, 0, dtype=torch.float64)

    def _rows(self, features: Tensor) -> Tensor:
        unit = unit_length(features)
        return unit_length(self._lift(unit)) if self._lift.width else unit

    def _begin(self, width: int) -> None:
        self.means, self.scatter = self.means.new_zeros(0, width), self.means.new_zeros(width, width)

    def _width(self) -> int:
        return self.means.shape[1]

    def _open(self) -> None:
        self.means = torch.cat([self.means, self.means.new_zeros(1, self._width())])
        self.counts = torch.cat([self.counts, self.counts.new_zeros(1)])

    def _take(self, unit: Tensor, entries: list[int]) -> None:
        for entry in dict.fromkeys(entries):
            self._add(unit[[row for row, each in enumerate(entries) if each == entry]], entry)

    def _add(self, rows: Tensor, entry: int) -> None:
        old, new = self.counts[entry], len(rows)
        mean = rows.mean(0)
        centred, shift = rows - mean, mean - self.means[entry]
        self.scatter += centred.T @ centred + torch.outer(shift, shift) * (old * new / (old + new))
        self.means[entry] += shift * (new / (old + new))
        self.counts[entry] += new

    def follow(self, drift: Drift) -> None:
        """Moves means and scatter to where their features are now."""
        self.means, self.scatter = drift.moved(self.means), drift.spread(self.scatter)

    def left_out(self, features: Tensor, labels: Sequence[str], group: int, shrinkage: float) -> LeftOut:
        """Returns the scores that LDA gives rows that were added, each as if it had been left out.

        Args:
            features: ``(n, d)``.
            labels: theirs; a row that is the only one of its label is passed over.
            group: index of their task.
            shrinkage: of the covariance.

        Raises:
            SpecError: if the covariance cannot be inverted, or no row of a label was added.
        """
        unit, entries = self._several(features, labels, group)
        if not entries:
            return LeftOut.of_nothing(self.labels)
        scores = lda_left_out(unit, entries, self.means, self.counts, self.scatter, shrinkage)
        return LeftOut(scores, tuple(entries), tuple(self.labels))

    def tensors(self) -> dict[str, Tensor]:
        """Returns the statistics as named tensors; what is added later does not change them."""
        return {"means": self.means.clone(), "counts": self.counts.clone(), "scatter": self.scatter.clone()}

    def spec(
        self,
        rule: Rule,
        shrinkage: float = 0.1,
        ridge: float = 0.01,
        over: Sequence[Mapping[str, Any]] = (),
        temperature: float = 1.0,
    ) -> HeadSpec:
        """Returns the head these statistics make under ``rule``.

        Args:
            rule: see :class:`StatisticsHead`.
            shrinkage: of the covariance towards a multiple of the identity, for ``"lda"``.
            ridge: added to the covariance in units of its mean variance, for ``"mahalanobis"``.
            over: the compositions whose features these are, as JSON; none for the bare base's.
            temperature: what scores are divided by.

        Raises:
            SpecError: if the rule is unknown, the shrinkage outside 0 to 1, or the ridge not positive.
        """
        if rule not in RULES:
            raise SpecError(f"no rule {rule!r} over class statistics{suggest(rule, RULES)}")
        if not 0 <= shrinkage <= 1:
            raise SpecError(f"shrinkage {shrinkage} is not between 0 and 1")
        if ridge <= 0:
            raise SpecError(f"a ridge of {ridge} keeps no covariance regular; give a positive one")
        told = {"lda": {"shrinkage": shrinkage}, "mahalanobis": {"ridge": ridge}}.get(rule, {})
        lifted = {"width": self._lift.width, "seed": self._lift.seed} if self._lift.width else {}
        options = {"rule": rule, "groups": list(self.groups), **told, **lifted}
        return HeadSpec("statistics", tuple(self.labels), options | head_options(over, temperature))

    @classmethod
    def from_stored(cls, spec: HeadSpec, tensors: Mapping[str, Tensor]) -> ClassStatistics:
        """Returns the statistics a version holds, to be updated further."""
        self = cls(spec.options.get("width", 0), spec.options.get("seed", 0))
        self.labels, self.groups = list(spec.classes), list(spec.options["groups"])
        self.means, self.counts = tensors["means"].clone(), tensors["counts"].clone()
        self.scatter = tensors["scatter"].clone()
        return self
