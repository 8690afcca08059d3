"""Whether confidence can be believed: the calibration error, and one temperature that mends it.

Guo et al. (2017), On calibration of modern neural networks: section 2 the error, section 4.2 the temperature.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp, softmax

from contpeft.errors import SpecError

__all__ = ["best_temperature", "calibration_error", "checked_scores", "cross_entropy"]

# Between which temperatures the best one is looked for.
_COLDEST, _HOTTEST = 1e-2, 1e2


def calibration_error(scores: ArrayLike, labels: Sequence[int], *, bins: int = 15) -> float:
    """Returns the expected calibration error: how far confidence is from accuracy, on average.

    Rows are sorted into bins of equal width by the probability of the answer given; the distance of mean
    confidence and accuracy is averaged over bins by their rows.

    Args:
        scores: ``(n, C)``, logits.
        labels: ``(n,)``, the right columns.
        bins: how many bins there are between 0 and 1.

    Returns:
        From 0, calibrated, to 1.

    Raises:
        SpecError: if there is no row, shapes do not fit, or a label is no column.
    """
    if bins < 1:
        raise SpecError(f"bins is {bins}; it must be at least 1")
    logits, right = checked_scores(scores, labels)
    probabilities = softmax(logits, axis=1)
    confidence = probabilities.max(1)
    correct = probabilities.argmax(1) == right
    # A bin is open below and closed above, so that certainty is in the last one.
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(place, confidence - correct, minlength=bins)
    return float(np.abs(gaps).sum() / len(right))


def cross_entropy(
    scores: ArrayLike,
    labels: Sequence[int],
    temperature: float = 1.0,
    answers: Sequence[str] | None = None,
) -> float:
    """Returns the mean negative log-likelihood of the right answers, in nats.

    Args:
        scores: ``(n, C)``, logits.
        labels: ``(n,)``, the right columns.
        temperature: what the logits are divided by.
        answers: ``(C,)``, what each column stands for, where several may stand for the same: any of them is
            right then, with the sum of their probabilities. None where all differ.

    Raises:
        SpecError: as :func:`calibration_error` does, and if the temperature is not positive.
    """
    if not temperature > 0:
        raise SpecError(f"temperature {temperature:g} is not positive; give more than 0")
    logits, right = checked_scores(scores, labels)
    told = log_softmax(logits / temperature, axis=1)
    if answers is None:
        return float(np.abs(told[np.arange(len(right)), right]).mean())
    stand = np.unique(list(answers), return_inverse=True)[1]
    return float(-logsumexp(np.where(stand == stand[right][:, None], told, -np.inf), axis=1).mean())


def best_temperature(scores: ArrayLike, labels: Sequence[int], answers: Sequence[str] | None = None) -> float:
    """Returns the temperature at which the right answers are most likely, on held-out rows.

    Dividing by it changes no answer, only how sure it is.

    Args:
        scores: ``(n, C)``, logits.
        labels: ``(n,)``, the right columns.
        answers: as :func:`cross_entropy` takes them.

    Returns:
        The temperature, 0.01 to 100; above 1 the model was too sure.

    Raises:
        SpecError: as :func:`calibration_error` does.
    """
    logits, right = checked_scores(scores, labels)
    # Convex in 1 / T; its logarithm keeps the search even over all sizes.
    found = minimize_scalar(
        lambda log_t: cross_entropy(logits, right.tolist(), float(np.exp(log_t)), answers),
        bounds=(np.log(_COLDEST), np.log(_HOTTEST)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(found.x))


def checked_scores(scores: ArrayLike, labels: Sequence[int]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Returns scores and labels as arrays.

    Raises:
        SpecError: if there is no row, shapes do not fit, or a label is no column.
    """
    logits, right = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    if logits.ndim != 2 or right.shape != logits.shape[:1] or not len(right):
        raise SpecError(
            f"scores of shape {logits.shape} and {right.size} labels are no rows of answers; "
            "give (n, C) scores and n labels, n at least 1"
        )
    if right.min() < 0 or right.max() >= logits.shape[1]:
        told = f"labels from {right.min()} to {right.max()}"
        raise SpecError(f"{told} are not all among {logits.shape[1]} columns; count them from 0")
    return logits, right
