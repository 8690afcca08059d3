"""Core space: all updates of one weight as small matrices between two shared bases.

The bases are orthonormal and hold every update, so nothing is lost, and whatever is linear in the updates
is computed on the cores at the cost of their size. After Panariello et al. (2025), "Accurate and Efficient
Low-Rank Model Merging in Core Space", with two deviations: the bases are taken from canonical forms, not
from the factors as they are, so that other factors of the same updates give the same cores; and directions
in which the stack has no extent are cut off, so that no basis vector is an accident of rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from contpeft.merging.layout import Term
from contpeft.merging.update import (
    Reduced,
    Update,
    canonical,
    check_finite,
    check_terms,
    decompose,
    signed,
    significant,
)

__all__ = ["CoreSpace", "core_space"]


@dataclass(frozen=True, eq=False)
class CoreSpace:
    """Updates ``u @ core_i @ v.T`` of one weight.

    Attributes:
        u: ``(d_out, p)``, orthonormal columns.
        v: ``(d_in, q)``, orthonormal columns.
        factors: of each core, ``(p, r_i)`` and ``(r_i, q)``.
    """

    u: Tensor
    v: Tensor
    factors: tuple[tuple[Tensor, Tensor], ...]

    @cached_property
    def cores(self) -> Tensor:
        """The cores, ``(k, p, q)``."""
        return torch.stack([left @ right for left, right in self.factors])

    @cached_property
    def parts(self) -> tuple[Update, ...]:
        """The cores in canonical form."""
        return tuple(canonical(left, right, dtype=left.dtype) for left, right in self.factors)

    def update(self, core: Tensor) -> Update:
        """Returns the update with a core of ``(p, q)``, in canonical form."""
        return self.update_cut(core)[0]

    def update_cut(self, core: Tensor, keep: Callable[[Tensor], int] | None = None) -> tuple[Update, Tensor]:
        """Returns the update with a core of ``(p, q)`` cut to a rank, and all its singular values.

        Args:
            core: the core.
            keep: how many singular values stay, given all ``(r,)``; all of them without it.
        """
        small = decompose(core)
        rank = small.rank if keep is None else keep(small.s)
        kept = signed(self.u @ small.u[:, :rank], small.s[:rank], self.v @ small.v[:, :rank])
        return kept, small.s


def core_space(terms: Sequence[Term], *, dtype: torch.dtype = torch.float64) -> CoreSpace:
    """Returns updates of one weight in their core space.

    Args:
        terms: ``(b, a, weight)`` of each update, as :func:`~contpeft.merging.update.combine` takes them.
        dtype: what to compute in.

    Raises:
        SpecError: as :func:`~contpeft.merging.update.combine` does.
    """
    check_terms(terms, dtype)
    pairs = [(b.to(dtype) * weight, a.to(dtype)) for b, a, weight in terms]
    # With the other factor's triangle each block is the update in all but a rotation, whatever the factors.
    lefts = [b @ Reduced.of(a.T).r.T for b, a in pairs]
    rights = [a.T @ Reduced.of(b).r.T for b, a in pairs]
    u, v = _basis(lefts), _basis(rights)
    return CoreSpace(u, v, tuple((u.T @ b, a @ v) for b, a in pairs))


def _basis(parts: Sequence[Tensor]) -> Tensor:
    """Returns the left singular vectors of a stack, ``(d, p)``, signed by their largest entries."""
    stack = torch.cat(list(parts), dim=1)
    if not stack.shape[1]:
        return stack
    reduced = Reduced.of(stack)
    check_finite(reduced.r)
    u, s, _ = torch.linalg.svd(reduced.r, full_matrices=False)
    vectors = reduced.lift(u[:, significant(s)])
    largest = vectors.abs().argmax(dim=0, keepdim=True)
    return vectors * torch.where(vectors.gather(0, largest) < 0, -1.0, 1.0).to(vectors.dtype)
