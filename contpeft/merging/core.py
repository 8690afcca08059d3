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

import torch
from torch import Tensor

from contpeft.errors import SpecError
from contpeft.merging.update import Reduced, Update, decompose, signed, significant

__all__ = ["CoreSpace", "core_space"]


@dataclass(frozen=True)
class CoreSpace:
    """Updates ``u @ cores[i] @ v.T`` of one weight.

    Attributes:
        u: ``(d_out, p)``, orthonormal columns.
        v: ``(d_in, q)``, orthonormal columns.
        cores: ``(k, p, q)``.
    """

    u: Tensor
    v: Tensor
    cores: Tensor

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


def core_space(updates: Sequence[Update]) -> CoreSpace:
    """Returns updates of one weight in their core space.

    Args:
        updates: all of one shape and one dtype.

    Raises:
        SpecError: if there is no update, or shapes differ.
    """
    shapes = sorted({update.shape for update in updates})
    if len(shapes) != 1:
        told = f"updates of shapes {', '.join(map(str, shapes))} share no space" if shapes else "no updates"
        raise SpecError(f"{told}; give updates of one weight")
    u = _basis([update.u * update.s for update in updates])
    v = _basis([update.v * update.s for update in updates])
    cores = [(u.T @ update.u * update.s) @ (update.v.T @ v) for update in updates]
    return CoreSpace(u, v, torch.stack(cores))


def _basis(parts: Sequence[Tensor]) -> Tensor:
    """Returns the left singular vectors of a stack, ``(d, p)``, signed by their largest entries."""
    stack = torch.cat(list(parts), dim=1)
    if not stack.shape[1]:
        return stack
    reduced = Reduced.of(stack)
    u, s, _ = torch.linalg.svd(reduced.r, full_matrices=False)
    vectors = reduced.lift(u[:, significant(s)])
    largest = vectors.abs().argmax(dim=0, keepdim=True)
    return vectors * torch.where(vectors.gather(0, largest) < 0, -1.0, 1.0).to(vectors.dtype)
