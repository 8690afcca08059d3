"""What statistics say of rows they hold, each as if it had been left out.

Statistics fit the rows they are of better than others, so that a temperature measured on these would be too
cold. Leaving one out has a closed form in both cases, which needs the rows of one task alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from contpeft.errors import SpecError

__all__ = ["lda_left_out", "ridge_left_out"]


def lda_left_out(
    unit: Tensor, entries: Sequence[int], means: Tensor, counts: Tensor, scatter: Tensor, shrinkage: float
) -> Tensor:
    """Returns the scores of shrinkage LDA of which the asked row is no part.

    Without row ``i`` of class ``k`` the scatter is ``n_k / (n_k - 1) r r'`` less, with ``r`` the row's
    distance to its mean, so that its inverse changes by rank one (Sherman and Morrison 1950). What the
    covariance is shrunk towards keeps its size, which one row hardly changes.

    Args:
        unit: ``(n, d)``, rows that are in the statistics.
        entries: ``(n,)``, of which mean each is a part; of at least two rows.
        means: ``(C, d)``.
        counts: ``(C,)``.
        scatter: ``(d, d)``.
        shrinkage: of the covariance.

    Returns:
        ``(n, C)``.

    Raises:
        SpecError: if the covariance cannot be inverted.
    """
    own, total, width = torch.tensor(entries, dtype=torch.long), counts.sum(), len(scatter)
    others, away = counts[own] - 1, unit - means[own]
    target = shrinkage * torch.trace(scatter) / total / width
    regular = (1 - shrinkage) / (total - 1) * scatter + target * torch.eye(width, dtype=scatter.dtype)
    factor, failed = torch.linalg.cholesky_ex(regular)
    if failed:
        raise SpecError("LDA cannot be calibrated: the covariance is singular; shrink more")
    solved = torch.cholesky_solve(torch.cat([means, away]).T, factor)
    of_means, of_away = solved[:, : len(means)], solved[:, len(means) :]
    row_mean, row_away = unit @ of_means, (unit * of_away.T).sum(1)
    away_mean, away_away = away @ of_means, (away * of_away.T).sum(1)
    mean_mean = (means * of_means.T).sum(1).repeat(len(unit), 1)
    at = torch.arange(len(unit)), own
    mean_mean[at] += away_away / others**2 - 2 * away_mean[at] / others
    row_mean[at] -= row_away / others
    away_mean[at] -= away_away / others
    removed = (1 - shrinkage) * counts[own] / (others * (total - 1))
    gained = (removed / (1 - removed * away_away))[:, None]
    dots, squares = row_mean + gained * row_away[:, None] * away_mean, mean_mean + gained * away_mean.square()
    return dots - 0.5 * squares


def ridge_left_out(lifted: Tensor, entries: Sequence[int], factor: Tensor, targets: Tensor) -> Tensor:
    """Returns the scores of ridge regression of which the asked row is no part.

    With ``h_i`` the share that a row has in its own fit, they are ``(f_i - h_i y_i) / (1 - h_i)`` (Allen
    1974, "The Relationship between Variable Selection and Data Augmentation and a Method for Prediction").

    Args:
        lifted: ``(n, M)``, rows that are in the sums.
        entries: ``(n,)``, their columns.
        factor: ``(M, M)``, the lower Cholesky factor of the sum of squares with its penalty.
        targets: ``(M, C)``.

    Returns:
        ``(n, C)``.
    """
    solved = torch.cholesky_solve(lifted.T, factor)
    share = (lifted * solved.T).sum(1, keepdim=True)
    right = torch.nn.functional.one_hot(torch.tensor(entries, dtype=torch.long), targets.shape[1]).to(targets)
    return (solved.T @ targets - share * right) / (1 - share)
