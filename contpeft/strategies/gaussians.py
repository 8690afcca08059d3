"""A Gaussian per class over features, and balanced draws from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

__all__ = ["Covariance", "draw", "fitted"]

Covariance = Literal["full", "diagonal", "shared"]


def fitted(
    features: Tensor, labels: Sequence[str], classes: Sequence[str], covariance: Covariance
) -> dict[str, Tensor]:
    """Returns the mean and the covariance of every class.

    Args:
        features: ``(n, d)``.
        labels: their label names.
        classes: the order of what is returned.
        covariance: of each class (``"full"``), its diagonal alone (``"diagonal"``), or one for all, pooled
            within classes (``"shared"``).

    Returns:
        ``means`` (C, d); ``covariance`` (C, d, d), (C, d) or (1, d, d); all float64.
    """
    rows = features.double()
    of_class = [rows[[i for i, each in enumerate(labels) if each == label]] for label in classes]
    means = torch.stack([each.mean(0) for each in of_class])
    centred = [each - mean for each, mean in zip(of_class, means, strict=True)]
    if covariance == "diagonal":
        return {"means": means, "covariance": torch.stack([each.square().mean(0) for each in centred])}
    if covariance == "shared":
        pooled = torch.cat(centred)
        return {"means": means, "covariance": (pooled.T @ pooled / len(pooled))[None]}
    return {"means": means, "covariance": torch.stack([each.T @ each / len(each) for each in centred])}


def draw(
    gaussians: Mapping[str, Tensor], count: int, shrinkage: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Returns as many features of every class, and the class of each.

    Args:
        gaussians: what :func:`fitted` returned.
        count: how many of a class.
        shrinkage: of a matrix towards a multiple of the identity, so that few examples do for it.
        generator: draws them.

    Returns:
        Features ``(C count, d)``, float64, and classes ``(C count,)``, class by class.
    """
    means, covariance = gaussians["means"], gaussians["covariance"]
    noise = torch.randn(len(means), count, means.shape[1], generator=generator, dtype=torch.float64)
    if covariance.ndim == 2:
        drawn = means[:, None] + noise * covariance.sqrt()[:, None]
    else:
        drawn = means[:, None] + noise @ _factor(covariance, shrinkage).mT
    return drawn.flatten(0, 1), torch.arange(len(means)).repeat_interleave(count)


def _factor(covariance: Tensor, shrinkage: float) -> Tensor:
    """Returns ``L`` with ``L L' = (1 - a) S + a tr(S)/d I``, and a little more so that it is positive."""
    width = covariance.shape[-1]
    variance = covariance.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]
    eye = torch.eye(width, dtype=covariance.dtype)
    shrunk = (1 - shrinkage) * covariance + shrinkage * variance * eye
    factor: Tensor = torch.linalg.cholesky(shrunk + (1e-6 * variance + 1e-12) * eye)
    return factor
