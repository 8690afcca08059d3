"""The canonical form of a low-rank update, and exact sums in it.

A LoRA adapter adds ``D = scale * B @ A`` to a weight. The factors are not unique: ``(B G, G^-1 A)`` is the
same update for every invertible ``G``, so whatever reads the factors one by one depends on an accident.
Here an update is its singular value decomposition ``U diag(S) V^T``, which depends on ``D`` alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from contpeft.errors import SpecError

__all__ = [
    "Update",
    "balanced_factors",
    "canonical",
    "combine",
    "decompose",
    "polar",
    "scaled",
    "significant",
    "truncated",
]

# Singular values below this share of the largest are rounding, not rank.
_CUT: Final = {torch.float64: 1e-10, torch.float32: 1e-6}


@dataclass(frozen=True)
class Update:
    """A low-rank update ``U diag(S) V^T`` of one weight, in canonical form.

    ``U`` and ``V`` have orthonormal columns, ``S`` is positive and goes down, and the entry of largest
    magnitude in each column of ``U`` is positive: equal updates have equal forms, up to rounding, wherever
    singular values differ.

    Attributes:
        u: ``(d_out, r)``.
        s: ``(r,)``.
        v: ``(d_in, r)``.
    """

    u: Tensor
    s: Tensor
    v: Tensor

    @property
    def rank(self) -> int:
        """Number of singular values."""
        return self.s.numel()

    @property
    def shape(self) -> tuple[int, int]:
        """``(d_out, d_in)`` of the weight."""
        return self.u.shape[0], self.v.shape[0]

    @property
    def norm(self) -> Tensor:
        """Frobenius norm, a scalar."""
        length: Tensor = torch.linalg.vector_norm(self.s)
        return length


def canonical(b: Tensor, a: Tensor, scale: float = 1.0, *, dtype: torch.dtype = torch.float64) -> Update:
    """Returns ``scale * b @ a`` in canonical form.

    Args:
        b: ``(d_out, r)``.
        a: ``(r, d_in)``.
        scale: what the product is multiplied by, such as ``alpha / r``.
        dtype: what to compute in: ``torch.float64`` or ``torch.float32``.

    Raises:
        SpecError: if the shapes do not fit, the type is another one, or a value is not finite.
    """
    return combine([(b, a, scale)], dtype=dtype)


def combine(terms: Sequence[tuple[Tensor, Tensor, float]], *, dtype: torch.dtype = torch.float64) -> Update:
    """Returns the sum of ``weight * b @ a`` over all terms in canonical form, exactly.

    Ranks may differ. The factors are stacked, each stack is reduced by a Householder QR, and the small
    square matrix between them by an SVD: the outer factors are orthonormal, so its singular values are
    those of the sum (Eckart and Young, 1936).

    Args:
        terms: ``(b, a, weight)`` of each update, shapes as in :func:`canonical`.
        dtype: what to compute in: ``torch.float64`` or ``torch.float32``.

    Raises:
        SpecError: if there is no term, shapes do not fit, the type is another one, or a value is not
            finite.
    """
    _check(terms, dtype)
    left = torch.cat([b.to(dtype) * weight for b, _, weight in terms], dim=1)
    right = torch.cat([a.to(dtype) for _, a, _ in terms], dim=0)
    q_left, r_left = torch.linalg.qr(left)
    q_right, r_right = torch.linalg.qr(right.T)
    u, s, vh = torch.linalg.svd(r_left @ r_right.T, full_matrices=False)
    # What cancels leaves the rounding of its parts, which nothing in the result is large enough to show.
    rounding = (
        4 * torch.finfo(dtype).eps * torch.linalg.matrix_norm(r_left) * torch.linalg.matrix_norm(r_right)
    )
    keep = significant(s) & (s > rounding)
    return _signed(q_left @ u[:, keep], s[keep], q_right @ vh[keep].T)


def decompose(matrix: Tensor) -> Update:
    """Returns a dense matrix ``(d_out, d_in)`` in canonical form, at the cost of a whole SVD."""
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    keep = significant(s)
    return _signed(u[:, keep], s[keep], vh[keep].T)


def scaled(update: Update, weight: float) -> Update:
    """Returns an update times a number; no update at all if it is 0."""
    if weight == 0:
        return Update(update.u[:, :0], update.s[:0], update.v[:, :0])
    return Update(update.u, update.s * abs(weight), update.v if weight > 0 else -update.v)


def polar(stack: Tensor) -> Tensor:
    """Returns the nearest matrix to ``(d, n)`` with orthonormal columns, in its own range.

    Where the columns are dependent there is no such matrix, and completing it would be arbitrary: the
    directions without extent are left out, and what is returned is the partial isometry of the polar
    decomposition, which is unique (Higham, 2008, theorem 8.1).
    """
    q, r = torch.linalg.qr(stack)
    u, s, vh = torch.linalg.svd(r, full_matrices=False)
    keep = significant(s)
    nearest: Tensor = q @ (u[:, keep] @ vh[keep])
    return nearest


def truncated(update: Update, rank: int) -> tuple[Update, Tensor]:
    """Returns the best approximation of at most that rank, and the energy it leaves out.

    Args:
        update: what to approximate.
        rank: at most so many singular values stay, the largest.

    Returns:
        The approximation, and the share of ``sum(S^2)`` that is lost, 0 to 1, a scalar.

    Raises:
        SpecError: if ``rank`` is negative.
    """
    if rank < 0:
        raise SpecError(f"rank {rank} is negative; give 0 or more")
    energy = update.s.square()
    total = energy.sum()
    lost = energy[rank:].sum() / total if bool(total > 0) else total
    return Update(update.u[:, :rank], update.s[:rank], update.v[:, :rank]), lost


def balanced_factors(update: Update) -> tuple[Tensor, Tensor]:
    """Returns ``b`` ``(d_out, r)`` and ``a`` ``(r, d_in)`` with ``b @ a`` the update and equal norms.

    With the singular values split evenly, half precision keeps small updates clear of subnormal numbers.
    """
    root = update.s.sqrt()
    return update.u * root, root.unsqueeze(1) * update.v.T


def significant(s: Tensor) -> Tensor:
    """Returns which singular values are more than rounding beside the largest, a mask of ``s``'s shape."""
    return s > _CUT[s.dtype] * s[:1]


def _signed(u: Tensor, s: Tensor, v: Tensor) -> Update:
    largest = u.abs().argmax(dim=0)
    signs = torch.where(u.gather(0, largest.unsqueeze(0)).squeeze(0) < 0, -1.0, 1.0).to(u.dtype)
    return Update(u * signs, s, v * signs)


def _check(terms: Sequence[tuple[Tensor, Tensor, float]], dtype: torch.dtype) -> None:
    if not terms:
        raise SpecError("there is no update to combine; give at least one")
    if dtype not in _CUT:
        raise SpecError(f"cannot compute updates in {dtype}; use torch.float64 or torch.float32")
    shape = terms[0][0].shape[0], terms[0][1].shape[-1]
    for b, a, weight in terms:
        if b.ndim != 2 or a.ndim != 2 or b.shape[1] != a.shape[0]:
            raise SpecError(f"factors of shapes {tuple(b.shape)} and {tuple(a.shape)} have no product")
        if (b.shape[0], a.shape[1]) != shape:
            raise SpecError(
                f"updates of shapes {shape} and {(b.shape[0], a.shape[1])} cannot be added; "
                "they are of different weights"
            )
        if not (torch.isfinite(b).all() and torch.isfinite(a).all() and abs(weight) < float("inf")):
            raise SpecError("an update has values that are NaN or infinite")
