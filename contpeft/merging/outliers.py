"""Which numbers of an adapter are unlike those of others: robust z-scores that allow for few others."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Final

from scipy.special import ndtri, stdtr

__all__ = ["robust_scores"]

# The median absolute deviation of a normal distribution in standard deviations.
_NORMAL: Final = 0.6745


def robust_scores(
    own: Mapping[str, float], others: Mapping[str, Sequence[float]], *, enough: int = 5
) -> dict[str, float]:
    """Returns how far numbers are from the medians of others, as normal scores.

    Modified z-scores ``0.6745 (x - median) / MAD`` (Iglewicz and Hoaglin, 1993, "How to Detect and
    Handle Outliers"), with two changes without
    which sound numbers are called outliers, since there are few others and many places:

    - The MAD at one place is by chance too small in one of many, so it is never taken below the MAD of the
      deviations at all places together.
    - Median and MAD of ``n`` others are uncertain, so the score is taken for Student's t with ``n - 1``
      degrees of freedom and a median's error, and given as the normal score that is as improbable.

    Args:
        own: the number at each place.
        others: the numbers of others at that place.
        enough: with fewer others than that a place has no score: a median and a spread say little.

    Returns:
        The score at each place with ``enough`` others, finite. Where others do not differ at
        any place, it is 0 for their value and about 38 for another one.
    """
    middles = {place: median(others[place]) for place in own if len(others.get(place, ())) >= enough}
    away = {place: [abs(x - middle) for x in others[place]] for place, middle in middles.items()}
    pooled = median([x for values in away.values() for x in values]) if away else 0.0
    return {
        place: _score(own[place] - middle, max(median(away[place]), pooled), len(away[place]))
        for place, middle in middles.items()
    }


def _score(away: float, mad: float, n: int) -> float:
    if away == 0:
        return 0.0
    z = _NORMAL * abs(away) / mad if mad > 0 else math.inf
    # The variance of a normal median is pi / 2n times that of one value.
    t = z / math.sqrt(1 + math.pi / (2 * n))
    tail = max(float(stdtr(n - 1, -t)), sys.float_info.min)
    return math.copysign(float(-ndtri(tail)), away)
