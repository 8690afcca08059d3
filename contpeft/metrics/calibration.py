"""Whether confidence can be believed: the calibration error, and temperatures that mend it.

Guo et al. (2017), On calibration of modern neural networks: section 2 the error, section 4.2 the temperature.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax, logsumexp, softmax

from contpeft.errors import SpecError

__all__ = ["best_temperature", "best_temperatures", "calibration_error", "cross_entropy"]

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
    logits, right = _checked(scores, labels)
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
    logits, right = _checked(scores, labels)
    told = _by_answer(logits, temperature, right, answers)
    return float(-told.logits[np.arange(len(right)), told.right].mean()) + 0.0  # a sure thing is 0, not -0


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
    logits, right = _checked(scores, labels)
    # Convex in 1 / T; its logarithm keeps the search even over all sizes.
    found = minimize_scalar(
        lambda log_t: cross_entropy(logits, right.tolist(), float(np.exp(log_t)), answers),
        bounds=(np.log(_COLDEST), np.log(_HOTTEST)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(found.x))


def best_temperatures(
    scores: Sequence[ArrayLike], labels: Sequence[int], answers: Sequence[str] | None = None
) -> tuple[float, ...]:
    """Returns the temperatures at which the product of several heads' probabilities is right most likely.

    Each head counts as much as it adds to the others: heads that err alike share one's weight, one that says
    nothing gets the hottest temperature. It is a logarithmic opinion pool whose weights need not sum to 1
    (Genest and Zidek 1986, Combining probability distributions), fitted by maximum likelihood.

    Args:
        scores: ``(n, C)`` of each head, logits of the same held-out rows and columns.
        labels: ``(n,)``, the right columns.
        answers: as :func:`cross_entropy` takes them.

    Returns:
        Of each head, 0.01 to 100 times the mean spread of its scores within a row.

    Raises:
        SpecError: as :func:`calibration_error` does, and if there is no head or they differ in shape.
    """
    if len({np.shape(each) for each in scores}) != 1:
        shapes = ", ".join(str(np.shape(each)) for each in scores) or "none"
        raise SpecError(f"heads that answer together need scores of one shape, got {shapes}")
    heads, scales = zip(*(_evened(_checked(each, labels)[0]) for each in scores), strict=True)
    right, rows = np.asarray(labels, dtype=np.int64), np.arange(len(labels))

    def lost(log_t: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        told = [_by_answer(head, t, right, answers) for head, t in zip(heads, np.exp(log_t), strict=True)]
        joined = log_softmax(np.sum([each.logits for each in told], axis=0), axis=1)
        wrong = np.exp(joined)
        wrong[rows, told[0].right] -= 1
        slopes = [-np.mean((wrong * each.scaled).sum(axis=1)) for each in told]
        return float(-joined[rows, told[0].right].mean()), np.array(slopes)

    # A head counts for its share of what it would count for alone: a start on the right scale.
    start = [np.log(best_temperature(head, labels, answers) * len(heads)) for head in heads]
    bounds = [(np.log(_COLDEST), np.log(_HOTTEST))] * len(heads)
    options = {"ftol": 1e-14, "gtol": 1e-8}
    found = minimize(
        lost, np.clip(start, *bounds[0]), jac=True, method="L-BFGS-B", bounds=bounds, options=options
    )
    return tuple(float(scale * each) for scale, each in zip(scales, np.exp(found.x), strict=True))


def _evened(logits: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Returns logits of unit spread within a row, and the spread they had; 1 if they had none."""
    spread = float(logits.std(axis=1).mean()) or 1.0
    return logits / spread, spread


class _Told(NamedTuple):
    """What a head says of each answer.

    Attributes:
        logits: ``(n, A)``, log-probabilities.
        scaled: ``(n, A)``, the divided scores behind them; the mean, by probability, where there are several.
        right: ``(n,)``.
    """

    logits: NDArray[np.float64]
    scaled: NDArray[np.float64]
    right: NDArray[np.int64]


def _by_answer(
    scores: NDArray[np.float64],
    temperature: float,
    right: NDArray[np.int64],
    answers: Sequence[str] | None,
) -> _Told:
    scaled = scores / temperature
    told = log_softmax(scaled, axis=1)
    if answers is None or len(set(answers)) == len(answers):
        return _Told(told, scaled, right)
    names, stand = np.unique(list(answers), return_inverse=True)
    columns = [np.flatnonzero(stand == name) for name in range(len(names))]
    logits = np.stack([logsumexp(told[:, each], axis=1) for each in columns], axis=1)
    means = [(softmax(told[:, each], axis=1) * scaled[:, each]).sum(axis=1) for each in columns]
    return _Told(logits, np.stack(means, axis=1), stand[right])


def _checked(scores: ArrayLike, labels: Sequence[int]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
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
