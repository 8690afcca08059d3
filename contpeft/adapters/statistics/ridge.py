"""Ridge regression on random features, its sums gathered in a stream.

McDonnell et al. 2023, "RanPAC: Random Projections and Pre-trained Models for Continual Learning", NeurIPS,
arXiv 2307.02251, section 3 and algorithm 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F

from contpeft.adapters.statistics.gathering import Gathered, LeftOut, head_options, unit_length
from contpeft.adapters.statistics.left_out import ridge_left_out
from contpeft.adapters.statistics.lifting import RandomFeatures
from contpeft.errors import SpecError
from contpeft.spec import HeadSpec

__all__ = ["PENALTIES", "RIDGE", "RidgeStatistics"]

RIDGE: Final = "ridge"
PENALTIES: Final = tuple(10.0**power for power in range(-8, 9))
"""The grid of penalties, that of the authors' code."""


class RidgeStatistics(Gathered):
    """``G = sum h h'`` and ``Q = sum h y'`` of features lifted to ``h = relu(Wr' f)``.

    ``Wr`` is drawn from a seed and not kept. The sums are float64, so that the order of tasks and the cutting
    into batches do not show. Two deviations from the paper: features are scaled to unit length first, as for
    the other rules, and the default width is 2,000 instead of 10,000 (``G`` takes 16 MB instead of 400).

    Args:
        width: how many random features, ``M``; 0 for ridge regression on the features themselves.
        seed: of ``Wr``.

    Attributes:
        labels: label of each entry.
        groups: the task index of each entry.
        gram: ``G``, ``(M, M)``.
        targets: ``Q``, ``(M, C)``.
        rows: how many were added.
    """

    def __init__(self, width: int = 2000, seed: int = 0) -> None:
        super().__init__()
        self._lift, self._features = RandomFeatures(width, seed), 0
        self.width, self.seed, self.rows = width, seed, 0
        self.gram = torch.empty(0, 0, dtype=torch.float64)
        self.targets = torch.empty(0, 0, dtype=torch.float64)

    def _begin(self, width: int) -> None:
        self._features, lifted = width, self.width or width
        self.gram = self.gram.new_zeros(lifted, lifted)
        self.targets = self.gram.new_zeros(lifted, 0)

    def _width(self) -> int:
        return self._features

    def _open(self) -> None:
        self.targets = torch.cat([self.targets, self.targets.new_zeros(len(self.targets), 1)], 1)

    def _take(self, unit: Tensor, entries: list[int]) -> None:
        lifted = self._lift(unit)
        self.rows += len(unit)
        self.gram += lifted.T @ lifted
        self.targets += lifted.T @ F.one_hot(torch.tensor(entries), len(self.labels)).double()

    def held_out_penalty(self, features: Tensor, labels: Sequence[str]) -> float:
        """Returns the penalty of :data:`PENALTIES` that predicts a held-out fifth of one task best.

        The rule of the authors' code: fitted on four fifths of the task at hand, chosen by the squared error
        on the others. Which rows these are is drawn from the seed, because tasks may come sorted by label.

        Args:
            features: ``(n, d)`` of the task.
            labels: their label names.

        Raises:
            SpecError: if there are fewer than 2 rows.
        """
        if len(features) < 2:
            raise SpecError(
                f"a penalty is chosen on held-out rows, there is {len(features)} row; fix it instead"
            )
        unit = unit_length(features)
        lifted = self._lift(unit)
        known = sorted(set(labels))
        targets = F.one_hot(torch.tensor([known.index(each) for each in labels]), len(known)).double()
        rows = torch.randperm(len(lifted), generator=torch.Generator().manual_seed(self.seed))
        cut = int(0.8 * len(rows))
        train, held = rows[:cut], rows[cut:]
        errors = _errors(lifted[train], targets[train], lifted[held], targets[held])
        return PENALTIES[int(torch.stack(errors).argmin())]

    def gcv_penalty(self) -> float:
        """Returns the penalty of :data:`PENALTIES` with the least generalised cross-validation error.

        ``n |Y - H Y|^2 / (n - tr H)^2`` with ``H`` the map from targets to fitted values (Golub, Heath and
        Wahba 1979, "Generalized Cross-Validation as a Method for Choosing a Good Ridge Parameter", equation
        1.4). All of it follows from the sums, so that it stands for the rows of all tasks, with none of them
        at hand. Rows held out of the last task alone choose for that task: where it is told apart with ease
        any penalty does, and the least of them can leave the other tasks nothing.

        Raises:
            SpecError: if no row was added.
        """
        if not self.rows:
            raise SpecError("a penalty is chosen from rows, and none were added")
        values, vectors = torch.linalg.eigh(self.gram)
        values, seen = values.clamp(min=0), (vectors.T @ self.targets).square().sum(1)
        # Below, what is left of rounding would be divided by what is left of rounding.
        usable = [each for each in PENALTIES if each >= 1e-7 * float(values.sum()) / self.rows]
        return min(usable, key=lambda penalty: self._gcv_error(values, seen, penalty))

    def _gcv_error(self, values: Tensor, seen: Tensor, penalty: float) -> float:
        """Returns the error from eigenvalues ``(M,)`` of ``G`` and the square of ``Q`` along its vectors."""
        solved = seen / (values + penalty)
        missed = self.rows - float((solved * (2 - values / (values + penalty))).sum())
        freedom = self.rows - float((values / (values + penalty)).sum())
        return self.rows * missed / freedom**2

    def left_out(self, features: Tensor, labels: Sequence[str], group: int, penalty: float) -> LeftOut:
        """Returns the scores of rows that were added, each as if it had been left out.

        Args:
            features: ``(n, d)``.
            labels: theirs; a row that is the only one of its label is passed over.
            group: index of their task.
            penalty: of the classifier.

        Raises:
            SpecError: if the penalty leaves the system without a solution, or no row of a label was added.
        """
        unit, entries = self._several(features, labels, group)
        if not entries:
            return LeftOut.of_nothing(self.labels)
        scores = ridge_left_out(self._lift(unit), entries, self._factor(penalty), self.targets)
        return LeftOut(scores, tuple(entries), tuple(self.labels))

    def tensors(self, penalty: float) -> dict[str, Tensor]:
        """Returns the sums, and the classifier that solves ``(G + penalty I) W = Q``.

        Returns:
            ``gram`` (M (M + 1) / 2, the lower triangle row by row), ``targets`` (M, C), ``weight`` (C, M).

        Raises:
            SpecError: if the penalty leaves the system without a solution.
        """
        weight = torch.cholesky_solve(self.targets, self._factor(penalty)).T.contiguous()
        lower = torch.ones_like(self.gram, dtype=torch.bool).tril()
        return {"gram": self.gram[lower], "targets": self.targets.clone(), "weight": weight}

    def _factor(self, penalty: float) -> Tensor:
        regular = self.gram + penalty * torch.eye(len(self.gram), dtype=torch.float64)
        factor: Tensor
        factor, failed = torch.linalg.cholesky_ex(regular)
        if failed or penalty < 0:
            raise SpecError(
                f"ridge regression has no solution at a penalty of {penalty:g}; give a larger one"
            )
        return factor

    def spec(
        self, penalty: float, over: Sequence[Mapping[str, Any]] = (), temperature: float = 1.0
    ) -> HeadSpec:
        """Returns the head these statistics make.

        Args:
            penalty: of the classifier in :meth:`tensors`.
            over: the compositions whose features these are, as JSON; none for the bare base's.
            temperature: what scores are divided by.
        """
        told = {"width": self.width, "seed": self.seed, "penalty": penalty, "rows": self.rows}
        options = {"rule": RIDGE, "groups": list(self.groups), **told, **head_options(over, temperature)}
        return HeadSpec("statistics", tuple(self.labels), options)

    @classmethod
    def from_stored(cls, spec: HeadSpec, tensors: Mapping[str, Tensor], width: int) -> RidgeStatistics:
        """Returns the statistics a version holds, to be updated further.

        Args:
            spec: the version's head.
            tensors: its tensors.
            width: of the features, ``d``.

        Raises:
            SpecError: if the version does not tell how many rows its sums are of.
        """
        if "rows" not in spec.options:
            raise SpecError("these sums do not tell of how many rows they are; gather them anew")
        self = cls(spec.options["width"], spec.options["seed"])
        self.labels, self.groups = list(spec.classes), list(spec.options["groups"])
        self.rows, self._features = spec.options["rows"], width
        self.targets = tensors["targets"].clone()
        lower = torch.ones(2 * (len(self.targets),), dtype=torch.bool).tril()
        half = torch.zeros(lower.shape, dtype=torch.float64).masked_scatter_(lower, tensors["gram"])
        self.gram = half + half.tril(-1).T
        return self


def _errors(train: Tensor, targets: Tensor, held: Tensor, expected: Tensor) -> list[Tensor]:
    """Returns the mean squared error on held-out rows at every penalty, from one decomposition."""
    if len(train) < train.shape[1]:  # (H'H + p I)^-1 H'Y = H'(HH' + p I)^-1 Y: the smaller system
        values, vectors = torch.linalg.eigh(train @ train.T)
        read, seen = held @ train.T @ vectors, vectors.T @ targets
    else:
        values, vectors = torch.linalg.eigh(train.T @ train)
        read, seen = held @ vectors, vectors.T @ (train.T @ targets)
    values = values.clamp(min=0)[:, None]
    return [F.mse_loss(read @ (seen / (values + penalty)), expected) for penalty in PENALTIES]
