"""A subspace of what a layer reads, as a value."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Subspace"]


@dataclass(frozen=True)
class Subspace:
    """A subspace of ``R^d``, kept by a basis of it or of its complement, whichever is smaller.

    DualGPM (Liang and Li 2023, "Adaptive Plasticity Improvement for Continual Learning", CVPR, section 3.2;
    InfLoRA, appendix A.3): never more than ``d * d / 2`` numbers, however many tasks there are.

    Attributes:
        kept: orthonormal columns ``(d, k)``.
        complement: whether they span what is left beside it.
    """

    kept: Tensor
    complement: bool = False

    @classmethod
    def nothing(cls, width: int) -> Subspace:
        """Returns the subspace of dimension 0 of ``R^width``."""
        return cls(torch.zeros(width, 0, dtype=torch.float64))

    @classmethod
    def spanned(cls, basis: Tensor) -> Subspace:
        """Returns what orthonormal columns ``(d, k)`` span."""
        width, rank = basis.shape
        return cls(_beside(basis), complement=True) if 2 * rank > width else cls(basis)

    @property
    def width(self) -> int:
        """The dimension of the space around it."""
        return len(self.kept)

    @property
    def rank(self) -> int:
        """Its dimension."""
        return self.width - self.kept.shape[1] if self.complement else self.kept.shape[1]

    @property
    def free(self) -> int:
        """The dimension of its complement."""
        return self.width - self.rank

    def basis(self) -> Tensor:
        """Returns an orthonormal basis of it, ``(d, rank)``."""
        return _beside(self.kept) if self.complement else self.kept

    def free_basis(self) -> Tensor:
        """Returns an orthonormal basis of its complement, ``(d, free)``."""
        return self.kept if self.complement else _beside(self.kept)

    def onto(self, rows: Tensor) -> Tensor:
        """Returns the part of each row ``(..., d)`` that lies in it."""
        inside = rows @ self.kept @ self.kept.mT
        return rows - inside if self.complement else inside

    def off(self, rows: Tensor) -> Tensor:
        """Returns the part of each row ``(..., d)`` that is orthogonal to it."""
        inside = rows @ self.kept @ self.kept.mT
        return inside if self.complement else rows - inside

    def joined(self, directions: Tensor) -> Subspace:
        """Returns the sum of it and what the columns of ``directions`` ``(d, m)``, of length 1, span.

        What is new in them by less than a millionth of their length counts as nothing.
        """
        left, sizes, _ = torch.linalg.svd(self.off(directions.mT).mT, full_matrices=False)
        return Subspace.spanned(torch.cat([self.basis(), left[:, sizes > 1e-6]], dim=1))

    def like(self, tensor: Tensor) -> Subspace:
        """Returns it with its basis in the precision and on the device of a tensor."""
        return Subspace(self.kept.to(tensor), self.complement)


def _beside(basis: Tensor) -> Tensor:
    """Returns an orthonormal basis of the complement of what orthonormal columns span."""
    whole: Tensor = torch.linalg.qr(basis, mode="complete").Q
    return whole[:, basis.shape[1] :]
