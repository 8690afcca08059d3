"""Inputs that fit no task: how well a row fits each one, and from where on that is too badly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from contpeft.adapters import Load, StatisticsHead
from contpeft.errors import SpecError
from contpeft.spec import View
from contpeft.strategies.over import read_by

__all__ = ["Judged", "Rejection", "fits", "threshold"]

# Rules whose scores are logits: what they say of a row alone is the probability, the scale is the row's.
_LOGITS: Final = ("lda", "gate")


@dataclass(frozen=True)
class Judged:
    """What a rejection says of rows.

    Attributes:
        score: ``(n,)``, how well each fits its task.
        task: ``(n,)``, the task it fits best.
        unknown: ``(n,)``, whether it fits even that one worse than nearly all its examples did.
    """

    score: Tensor
    task: Tensor
    unknown: Tensor


class Rejection:
    """Tells rows of no known task.

    Args:
        head: class statistics.
        thresholds: ``(T,)``, of each task the score below which a row is unknown.

    Raises:
        SpecError: if there is not a threshold for every task.
    """

    def __init__(self, head: StatisticsHead, thresholds: Tensor) -> None:
        known = max(head.groups) + 1
        if len(thresholds) != known:
            raise SpecError(f"there are {len(thresholds)} thresholds for {known} tasks; give one for each")
        self._head, self._thresholds = head, thresholds.double()

    @classmethod
    def stored(cls, router: str, thresholds: str, load: Load) -> Rejection:
        """Returns the one that stored versions make.

        Args:
            router: the version that holds the class statistics.
            thresholds: the version that :class:`KeepThresholds` has registered beside it.
            load: gives a version's entry and weights.

        Raises:
            SpecError: if the versions are others, or not of one rule.
        """
        statistics, kept = load(router)[1], load(thresholds)[1]
        if statistics.head is None or statistics.head.kind != "statistics":
            raise SpecError(f"{router} holds no class statistics; it fits no task")
        rule = statistics.head.options["rule"]
        if kept.config.get("thresholds of") != rule:
            raise SpecError(f"{thresholds} holds no thresholds of the rule {rule!r} of {router}")
        head = StatisticsHead(statistics.head, statistics.head_tensors())
        return cls(head, kept.tensors["thresholds"])

    @property
    def reads(self) -> tuple[View, ...]:
        """The compositions whose features it judges; see :meth:`Features.through`."""
        return read_by(self._head)

    def judge(self, features: Tensor) -> Judged:
        """Returns what it says of features ``(n, d)``."""
        score, task = fits(self._head, features).max(1)
        return Judged(score, task, score < self._thresholds[task])


def fits(head: StatisticsHead, features: Tensor) -> Tensor:
    """Returns how well features ``(n, d)`` fit each task, ``(n, T)``: by its best class.

    For ``"lda"`` and ``"gate"`` that is the log-probability of the class among all; for other rules its
    score: a cosine, minus a squared distance, a regression.
    """
    return head.of_groups(features, normed=head.spec().options["rule"] in _LOGITS)


def threshold(head: StatisticsHead, features: Tensor, task: int, percentile: float) -> float:
    """Returns the score below which the worst of a task's own examples are.

    Args:
        head: class statistics.
        features: ``(n, d)``, the task's examples.
        task: its index.
        percentile: how many of a hundred examples are below.
    """
    own = fits(head, features)[:, task]
    return float(torch.quantile(own, percentile / 100))
