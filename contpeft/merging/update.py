"""The canonical form of a low-rank update, and exact sums in it.

A LoRA adapter adds ``D = scale * B @ A`` to a weight. The factors are not unique: ``(B G, G^-1 A)`` is the
same update for every invertible ``G``, so whatever reads the factors one by one depends on an accident.
Here an update is its singular value decomposition ``U diag(S) V^T``, which depends on ``D`` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from contpeft.errors import SpecError

__all__ = [
    "Reduced",
    "Update",
    "balanced_factors",
    "canonical",
    "check_finite",
    "check_terms",
    "combine",
    "combine_cut",
    "decompose",
    "polar",
    "scaled",
    "signed",
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
    return combine_cut(terms, dtype=dtype)[0]


def combine_cut(
    terms: Sequence[tuple[Tensor, Tensor, float]],
    keep: Callable[[Tensor], int] | None = None,
    *,
    dtype: torch.dtype = torch.float64,
) -> tuple[Update, Tensor]:
    """Returns the sum of all terms cut to a rank, and all its singular values.

    What is cut off is never computed but for its singular values, which makes a cut cheaper than the whole.

    Args:
        terms: as in :func:`combine`.
        keep: how many singular values stay, given all ``(r,)``; all of them without it.
        dtype: what to compute in.

    Raises:
        SpecError: as :func:`combine` does.
    """
    check_terms(terms, dtype)
    left = Reduced.of(torch.cat([b.to(dtype) * weight for b, _, weight in terms], dim=1))
    right = Reduced.of(torch.cat([a.to(dtype) for _, a, _ in terms], dim=0).T)
    core = left.r @ right.r.T
    check_finite(core)
    u, s, vh = torch.linalg.svd(core, full_matrices=False)
    # What cancels leaves the rounding of its parts, which nothing in the result is large enough to show.
    rounding = (
        4 * torch.finfo(dtype).eps * torch.linalg.matrix_norm(left.r) * torch.linalg.matrix_norm(right.r)
    )
    s = s[significant(s) & (s > rounding)]
    rank = min(s.numel(), s.numel() if keep is None else keep(s))
    return signed(left.lift(u[:, :rank]), s[:rank], right.lift(vh[:rank].T)), s


@dataclass(frozen=True)
class Reduced:
    """A tall matrix as ``Q r``, by Householder reflections; ``Q`` is applied, never formed.

    Attributes:
        r: ``(n, columns)``, upper triangular, ``n`` the smaller dimension.
        reflectors: what LAPACK keeps of ``Q``.
        tau: their lengths.
    """

    r: Tensor
    reflectors: Tensor
    tau: Tensor

    @classmethod
    def of(cls, matrix: Tensor) -> Reduced:
        """Returns a matrix ``(d, columns)`` reduced."""
        reflectors, tau = torch.geqrf(matrix)
        n = tau.numel()
        return cls(reflectors[:n].triu(), reflectors[:, :n], tau)

    def lift(self, small: Tensor) -> Tensor:
        """Returns ``Q small``: ``(n, c)`` to ``(d, c)``."""
        padded = small.new_zeros(self.reflectors.shape[0], small.shape[1])
        padded[: small.shape[0]] = small
        lifted: Tensor = torch.ormqr(self.reflectors, self.tau, padded)
        return lifted


def decompose(matrix: Tensor) -> Update:
    """Returns a dense matrix ``(d_out, d_in)`` in canonical form, at the cost of a whole SVD."""
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    keep = significant(s)
    return signed(u[:, keep], s[keep], vh[keep].T)


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
    reduced = Reduced.of(stack)
    u, s, vh = torch.linalg.svd(reduced.r, full_matrices=False)
    keep = significant(s)
    return reduced.lift(u[:, keep] @ vh[keep])


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


def signed(u: Tensor, s: Tensor, v: Tensor) -> Update:
    """Returns singular triples with the signs of the canonical form."""
    if not s.numel():
        return Update(u, s, v)
    largest = u.abs().argmax(dim=0)
    signs = torch.where(u.gather(0, largest.unsqueeze(0)).squeeze(0) < 0, -1.0, 1.0).to(u.dtype)
    return Update(u * signs, s, v * signs)


def check_finite(core: Tensor) -> None:
    """Raises :class:`SpecError` if a value is NaN or infinite.

    Such a value anywhere in an update makes others so, and a core has the fewest.
    """
    if not torch.isfinite(core).all():
        raise SpecError("an update has values that are NaN or infinite")


def check_terms(terms: Sequence[tuple[Tensor, Tensor, float]], dtype: torch.dtype) -> None:
    """Raises :class:`SpecError` if there is no term, shapes do not fit, or the type is another one."""
    if not terms:
        raise SpecError("there is no update to combine; give at least one")
    if dtype not in _CUT:
        raise SpecError(f"cannot compute updates in {dtype}; use torch.float64 or torch.float32")
    shape = terms[0][0].shape[0], terms[0][1].shape[-1]
    for b, a, _ in terms:
        if b.ndim != 2 or a.ndim != 2 or b.shape[1] != a.shape[0]:
            raise SpecError(f"factors of shapes {tuple(b.shape)} and {tuple(a.shape)} have no product")
        if (b.shape[0], a.shape[1]) != shape:
            raise SpecError(
                f"updates of shapes {shape} and {(b.shape[0], a.shape[1])} cannot be added; "
                "they are of different weights"
            )
