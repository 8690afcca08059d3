"""Whether inputs of no known task are told from those of known ones: by a score, and by a threshold on it.

Hendrycks and Gimpel (2017), A baseline for detecting misclassified and out-of-distribution examples,
section 2, for what is measured.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from contpeft.errors import SpecError

__all__ = ["auroc", "false_acceptance", "false_rejection"]


def auroc(known: ArrayLike, unknown: ArrayLike) -> float:
    """Returns the area under the receiver operating characteristic.

    It is the probability that a known input scores higher than an unknown one, ties counted half (the
    statistic of Mann and Whitney).

    Args:
        known: ``(n,)``, scores of known inputs, high for familiar.
        unknown: ``(m,)``, scores of unknown ones.

    Returns:
        From 0 to 1; 0.5 tells nothing apart.

    Raises:
        SpecError: if there are none of either, or a score is not a number.
    """
    inside, outside = _checked(known, "known"), _checked(unknown, "unknown")
    ranks = rankdata(np.concatenate([inside, outside]))[: len(inside)]
    pairs_lost = len(inside) * (len(inside) + 1) / 2
    return float((ranks.sum() - pairs_lost) / (len(inside) * len(outside)))


def false_rejection(known: ArrayLike, thresholds: ArrayLike) -> float:
    """Returns the share of known inputs that score below their threshold.

    Args:
        known: ``(n,)``, scores of known inputs.
        thresholds: one for all, or ``(n,)``, one each.

    Raises:
        SpecError: if there are no inputs, or a score is not a number.
    """
    inside = _checked(known, "known")
    return float(np.mean(inside < np.asarray(thresholds, dtype=np.float64)))


def false_acceptance(unknown: ArrayLike, thresholds: ArrayLike) -> float:
    """Returns the share of unknown inputs that score no lower than their threshold.

    Args:
        unknown: ``(m,)``, scores of unknown inputs.
        thresholds: one for all, or ``(m,)``, one each.

    Raises:
        SpecError: if there are no inputs, or a score is not a number.
    """
    outside = _checked(unknown, "unknown")
    return float(np.mean(outside >= np.asarray(thresholds, dtype=np.float64)))


def _checked(scores: ArrayLike, what: str) -> NDArray[np.float64]:
    found = np.asarray(scores, dtype=np.float64)
    if found.ndim != 1 or not len(found):
        raise SpecError(f"rejection is measured on scores, one a row; the {what} ones are {found.shape}")
    if np.isnan(found).any():
        raise SpecError(f"a score of the {what} inputs is not a number")
    return found
