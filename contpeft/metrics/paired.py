"""Two models on the same rows: how many rows turned wrong or right, and what chance could do.

Both answer every row, so only the rows on which they differ say which is better. All functions take or
return accuracies; ``difference`` is after minus before, so a loss is negative.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import fmean

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import bisect
from scipy.stats import binom, norm

from contpeft.errors import SpecError

__all__ = ["Comparison", "Paired", "compare", "holm", "loss_p_value", "mean_of", "score_interval"]


@dataclass(frozen=True)
class Comparison:
    """Two accuracies, and their difference (after minus before) with its confidence interval.

    Attributes:
        before: accuracy of the first model, 0 to 1.
        after: accuracy of the second, 0 to 1.
        low: the interval's lower end, -1 to 1.
        high: its upper end.
        p: how probable so many lost rows are if neither model is better, against the second being worse.
        n: number of rows.
    """

    before: float
    after: float
    low: float
    high: float
    p: float
    n: int

    @property
    def difference(self) -> float:
        """After minus before."""
        return self.after - self.before

    @property
    def loss(self) -> float:
        """Before minus after: positive where the second model is worse."""
        return self.before - self.after


@dataclass(frozen=True)
class Paired(Comparison):
    """Two models on the same rows.

    Attributes:
        lost: rows the first has right and the second wrong.
        gained: rows the second has right and the first wrong.
    """

    lost: int
    gained: int


def compare(before: ArrayLike, after: ArrayLike, alpha: float = 0.05) -> Paired:
    """Returns how the second model stands beside the first, row by row.

    Args:
        before: whether the first model has each row right, ``(n,)``.
        after: the same of the second model, in the same order.
        alpha: the interval covers the true difference with probability ``1 - alpha``.

    Raises:
        SpecError: if there are no rows, not as many of both, or ``alpha`` is not between 0 and 1.
    """
    first, second = np.asarray(before, dtype=bool), np.asarray(after, dtype=bool)
    if first.ndim != 1 or first.shape != second.shape or not first.size:
        raise SpecError(
            "two models are compared on the same rows, one at least; "
            f"there are {first.shape} and {second.shape}"
        )
    n, lost, gained = first.size, int((first & ~second).sum()), int((second & ~first).sum())
    low, high = score_interval(lost, gained, n, alpha)
    return Paired(
        before=int(first.sum()) / n,
        after=int(second.sum()) / n,
        low=low,
        high=high,
        p=loss_p_value(lost, gained),
        n=n,
        lost=lost,
        gained=gained,
    )


def loss_p_value(lost: int, gained: int) -> float:
    """Returns the p-value of McNemar's exact test, one-sided against a loss.

    If neither model is better, each row on which they differ was lost with probability 1/2: the value
    is ``P(X >= lost)`` of ``X ~ Binomial(lost + gained, 1/2)``. McNemar (1947), Note on the sampling
    error of the difference between correlated proportions or percentages.
    """
    return float(binom.sf(lost - 1, lost + gained, 0.5)) if lost else 1.0


def score_interval(lost: int, gained: int, n: int, alpha: float = 0.05) -> tuple[float, float]:
    """Returns the score interval for the difference (after minus before) of two paired proportions.

    Tango (1998), Equivalence test and confidence interval for the difference in proportions for the
    paired-sample design, Statistics in Medicine 17, section 4: all differences that the score test does
    not reject. It holds its level with few rows and where both models answer alike.

    Args:
        lost: rows the first model has right and the second wrong.
        gained: rows the second model has right and the first wrong.
        n: number of all rows.
        alpha: it covers the true difference with probability ``1 - alpha``.

    Raises:
        SpecError: if the counts cannot be, or ``alpha`` is not between 0 and 1.
    """
    if lost < 0 or gained < 0 or n < max(1, lost + gained):
        raise SpecError(f"{lost} rows lost and {gained} gained of {n} cannot be")
    if not 0 < alpha < 1:
        raise SpecError(f"alpha is {alpha}; it must lie between 0 and 1, both excluded, such as 0.05")
    # Both ends are found from below: swapping the models mirrors the interval.
    return _lower(lost, gained, n, alpha), -_lower(gained, lost, n, alpha)


def mean_of(parts: Sequence[Paired]) -> Comparison:
    """Returns the mean over several sets of rows, each with the same weight, with its interval.

    The sets share no row, so their intervals are combined by the squared distances of their ends: Zou and
    Donner (2008), Construction of confidence limits about effect measures: a general approach, Statistics
    in Medicine 27, eq. 5 and 6. The p-value is that of all rows together.

    Raises:
        SpecError: if there is none.
    """
    if not parts:
        raise SpecError("there is nothing to take the mean of; give one comparison at least")
    before, after = fmean(part.before for part in parts), fmean(part.after for part in parts)
    below = math.hypot(*(part.difference - part.low for part in parts)) / len(parts)
    above = math.hypot(*(part.high - part.difference for part in parts)) / len(parts)
    p = loss_p_value(sum(part.lost for part in parts), sum(part.gained for part in parts))
    middle = after - before
    return Comparison(
        before, after, max(-1.0, middle - below), min(1.0, middle + above), p, sum(part.n for part in parts)
    )


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Returns p-values corrected for being several: below alpha, they are so with at most alpha by chance.

    Holm (1979), A simple sequentially rejective multiple test procedure: the smallest is multiplied by
    their number, the next by one less, and none falls below the one before it.
    """
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    scaled = (min(1.0, p_values[place] * (len(p_values) - rank)) for rank, place in enumerate(order))
    corrected = dict(zip(order, accumulate(scaled, max), strict=True))
    return tuple(corrected[place] for place in range(len(p_values)))


def _lower(lost: int, gained: int, n: int, alpha: float) -> float:
    """Returns the smallest difference that the score test does not reject."""
    quantile = float(norm.isf(alpha / 2))
    estimate = (gained - lost) / n

    def excess(difference: float) -> float:
        return _score(lost, gained, n, difference) - quantile

    if estimate == -1.0:  # below it there is nothing
        return -1.0
    return float(bisect(excess, -1.0, estimate, xtol=1e-12))


def _score(lost: int, gained: int, n: int, difference: float) -> float:
    """Returns Tango's statistic of the hypothesis that the true difference is ``difference``."""
    distance = gained - lost - n * difference
    variance = n * (2 * _least_lost(lost, gained, n, difference) + difference * (1 - difference))
    if distance == 0:
        return 0.0
    return math.inf if variance <= 0 else distance / math.sqrt(variance)


def _least_lost(lost: int, gained: int, n: int, difference: float) -> float:
    """Returns the most likely share of lost rows, given the difference of the two shares."""
    a = 2 * n
    b = (2 * n - gained + lost) * difference - gained - lost
    c = -lost * difference * (1 - difference)
    return (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
