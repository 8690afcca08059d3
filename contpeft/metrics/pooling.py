"""How much each of several classifiers counts where the product of their probabilities answers.

A logarithmic opinion pool (Genest and Zidek 1986, Combining probability distributions; Heskes 1998,
Selecting weighting factors in logarithmic opinion pools), whose weights need not sum to 1 and are fitted by
maximum likelihood, task after task: what earlier tasks told is kept as a Gaussian around the weights they led
to (online Laplace, as Ritter, Botev and Barber 2018, arXiv 1805.07810, have it for networks).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax, logsumexp, softmax

from contpeft.errors import SpecError
from contpeft.metrics.calibration import checked_scores

__all__ = ["KEPT", "Weights", "pool_weights"]

Array = NDArray[np.float64]

KEPT: Final = 0.7
"""How much what is known counts at the next task, which asks for more classes than those before it."""

# The least and the most a head may count, for scores of unit spread within a row.
_LEAST, _MOST = 1e-4, 1e2


class Weights(NamedTuple):
    """What the scores of each head are multiplied by, and how surely that is known.

    Attributes:
        values: ``(K,)``, positive.
        precision: ``(K, K)``, the second derivative of what is lost, in nats, at these weights.
    """

    values: Array
    precision: Array


def pool_weights(
    scores: Sequence[ArrayLike],
    labels: Sequence[int],
    answers: Sequence[str] | None = None,
    before: Weights | None = None,
    kept: float = KEPT,
) -> Weights:
    """Returns the weights at which the right answers of held-out rows are most likely.

    Each head counts as much as it adds to the others: heads that err alike share one's weight, and one that
    says nothing gets next to none. Rows that any weights tell rightly leave these as they were.

    Args:
        scores: ``(n, C)`` of each head, logits of the same rows and columns.
        labels: ``(n,)``, the right columns.
        answers: ``(C,)``, what each column stands for, where several may stand for one; None if all differ.
        before: what is known from other rows; None for heads that count the same once their scores have unit
            spread, known as from one row.
        kept: what its precision is multiplied by.

    Raises:
        SpecError: if there is no head or row, or shapes do not fit.
    """
    if len({np.shape(each) for each in scores}) != 1:
        shapes = ", ".join(str(np.shape(each)) for each in scores) or "none"
        raise SpecError(f"heads that answer together need scores of one shape, got {shapes}")
    heads = [checked_scores(each, labels)[0] for each in scores]
    spread = np.array([float(head.std(axis=1).mean()) or 1.0 for head in heads])
    start, known = np.ones(len(heads)), np.eye(len(heads))
    if before is not None:
        start, known = before.values * spread, kept * before.precision / np.outer(spread, spread)
    rows = _Rows([head / each for head, each in zip(heads, spread, strict=True)], labels, answers)

    def lost(values: Array) -> tuple[float, Array]:
        nats, slope = rows.lost(values)
        away = values - start
        return nats + 0.5 * float(away @ known @ away), slope + known @ away

    found = minimize(
        lost,
        np.clip(start, _LEAST, _MOST),
        jac=True,
        method="L-BFGS-B",
        bounds=[(_LEAST, _MOST)] * len(heads),
        options={"ftol": 1e-13, "gtol": 1e-9, "maxiter": 1000},
    )
    precision = known + rows.curvature(found.x)
    return Weights(found.x / spread, precision * np.outer(spread, spread))


class _Rows:
    """Rows that heads have told of, and what a pool of these loses on them.

    Args:
        heads: ``(n, C)`` of each.
        labels: ``(n,)``.
        answers: what each column stands for.
    """

    def __init__(self, heads: Sequence[Array], labels: Sequence[int], answers: Sequence[str] | None) -> None:
        self._heads = heads
        columns = list(range(heads[0].shape[1])) if answers is None else list(answers)
        names, stand = np.unique(np.array(columns), return_inverse=True)
        self._columns = [np.flatnonzero(stand == name) for name in range(len(names))]
        self._all_differ = len(names) == len(columns)
        self._right = stand[np.asarray(labels, dtype=np.int64)]
        if self._all_differ:
            self._heads = [head[:, np.argsort(stand)] for head in heads]

    def lost(self, weights: Array) -> tuple[float, Array]:
        """Returns minus the log-likelihood of the right answers, in nats, and its slope ``(K,)``."""
        joined, means = self._joined(weights)
        at = np.arange(len(self._right)), self._right
        wrong = np.exp(joined)
        wrong[at] -= 1
        return float(-joined[at].sum()), np.einsum("na,nak->k", wrong, means)

    def curvature(self, weights: Array) -> Array:
        """Returns the second derivative ``(K, K)``: how answers' scores vary together, summed over rows.

        Where several columns stand for one answer, how these vary among each other is left out.
        """
        joined, means = self._joined(weights)
        shares = np.exp(joined)
        mean = np.einsum("na,nak->nk", shares, means)
        return np.asarray(np.einsum("na,nak,nal->kl", shares, means, means) - mean.T @ mean)

    def _joined(self, weights: Array) -> tuple[Array, Array]:
        """Returns log-probabilities ``(n, A)`` and each head's score of each answer ``(n, A, K)``."""
        told = [self._told(head, weight) for head, weight in zip(self._heads, weights, strict=True)]
        joined = log_softmax(np.sum([logits for logits, _ in told], axis=0), axis=1)
        return joined, np.stack([means for _, means in told], axis=2)

    def _told(self, head: Array, weight: float) -> tuple[Array, Array]:
        """Returns a head's logits of each answer, and its mean score among the columns that stand for it."""
        scaled = weight * head
        if self._all_differ:
            return scaled, head
        logits = [logsumexp(scaled[:, each], axis=1) for each in self._columns]
        means = [(softmax(scaled[:, each], axis=1) * head[:, each]).sum(axis=1) for each in self._columns]
        return np.stack(logits, axis=1), np.stack(means, axis=1)
