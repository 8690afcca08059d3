"""How much of what a layer reads a subspace must hold, and which directions it grows by."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from contpeft.strategies.subspaces.subspace import Subspace

__all__ = ["Energy", "grown", "leading_rows"]

Energy = Literal["cov", "cov2"]
"""What the energy of a second moment is: its eigenvalues, or (InfLoRA's code) their squares."""


def grown(
    space: Subspace, moment: Tensor, share: float, energy: Energy = "cov2", cap: int | None = None
) -> Subspace:
    """Returns a subspace with the fewest directions added that let it hold a share of the energy.

    InfLoRA (Liang and Li 2024, arXiv 2404.00228, appendix A.3): directions are the left singular vectors of
    ``(I - M M^T) S`` and ``|(I - M M^T) S|_F^2 <= (1 - share) |S|_F^2`` is what is asked for; with ``"cov"``
    the eigenvectors of ``(I - M M^T) S (I - M M^T)``, and the same of traces. Directions without energy
    are never added.

    Args:
        space: what is held so far.
        moment: the mean of ``x x^T``, ``(d, d)``.
        share: within 0 and 1.
        energy: of which kind.
        cap: the most directions to hold; None for no such limit.
    """
    free = space.free_basis().to(moment)
    inside = free.mT @ moment
    whole = inside @ free if energy == "cov" else inside @ inside.mT
    values, vectors = torch.linalg.eigh((whole + whole.mT) / 2)
    values, vectors = values.flip(0), vectors.flip(1)
    total = moment.trace() if energy == "cov" else moment.square().sum()
    count = _fewest(values, total, share)
    count = count if cap is None else min(count, max(cap - space.rank, 0))
    if not count:
        return space
    return Subspace.spanned(torch.cat([space.basis().to(moment), free @ vectors[:, :count]], dim=1))


def leading_rows(space: Subspace, matrix: Tensor, rank: int) -> Tensor:
    """Returns the directions outside a subspace in which a matrix is largest.

    Args:
        space: what they are orthogonal to.
        matrix: ``(d, n)``.
        rank: how many; no more than are free.

    Returns:
        Orthonormal rows ``(rank, d)``: the left singular vectors of ``(I - M M^T) matrix`` with the largest
        singular values.
    """
    free = space.free_basis().to(matrix)
    inside = free.mT @ matrix
    vectors: Tensor = torch.linalg.eigh(inside @ inside.mT).eigenvectors
    return (free @ vectors[:, -rank:].flip(1)).mT


def _fewest(values: Tensor, total: Tensor, share: float) -> int:
    """Returns how many of some falling values leave no more than ``1 - share`` of the total to the rest."""
    noise = len(values) * torch.finfo(values.dtype).eps * float(total)
    real = torch.where(values > noise, values, torch.zeros_like(values))
    # Summed from the smallest: what is left may be tiny beside the total.
    rest = torch.cat([real.flip(0).cumsum(0).flip(0), real.new_zeros(1)])
    return int((rest > (1 - share) * float(total) + noise).sum())
