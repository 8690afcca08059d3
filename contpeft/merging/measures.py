"""Measures of how two or more updates of one weight get in each other's way.

Everything is read off small matrices between canonical forms; no ``d_out x d_in`` matrix is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Final

import torch
from torch import Tensor

from contpeft.merging.budget import rank_for_energy
from contpeft.merging.compare import Side
from contpeft.merging.update import Update

__all__ = [
    "ENERGY",
    "Triples",
    "energy_inside_both",
    "input_residual",
    "inside_both_of",
    "overlap",
    "overlap_of",
    "share",
    "singular_task_interference",
]

# What counts as the part of an update that has directions worth comparing.
ENERGY: Final = 0.95


def overlap(one: Update, other: Update, side: Side, *, energy: float = ENERGY) -> Tensor:
    """Returns how much of the smaller of two ranges lies in the other one, 0 to 1, a scalar.

    ``||U_i^T U_j||_F^2 / min(a, b)``, where ``a`` and ``b`` are the ranks that hold that share of each
    update's energy; 0 if one of them is zero.

    Args:
        one: an update.
        other: an update of the same weight.
        side: ``"output"`` compares what they write to, ``"input"`` what they read from.
        energy: the share of ``sum(S^2)`` that counts.
    """
    between = one.u.T @ other.u if side == "output" else one.v.T @ other.v
    return overlap_of(between, *(rank_for_energy(each.s, energy) for each in (one, other)))


def energy_inside_both(one: Update, other: Update) -> Tensor:
    """Returns the share of an update's energy in the outputs and the inputs of another, 0 to 1, a scalar.

    ``||U_j^T U_i S_i V_i^T V_j||_F^2 / ||S_i||^2``: what a projection from both sides would take away.
    """
    inside = inside_both_of(one.u.T @ other.u, one.v.T @ other.v, one.s)
    return share(inside, one.s.square().sum())


def singular_task_interference(updates: Sequence[Update]) -> Tensor:
    """Returns the interference of the singular vectors of all updates of one weight, a scalar.

    ``||(U^T U - I) S (V^T V - I)||_1`` over the concatenated triples, the sum of the magnitudes of all
    entries: 0 if the updates share no direction on one of their sides (Gargiulo et al., 2025, "Task
    Singular Vectors"). It grows with the updates and with their number.
    """
    return Triples.of(updates).interference()


def input_residual(one: Update, merged: Update) -> Tensor:
    """Returns how differently a merge acts on what an update reads, ``||(M - D_i) V_i S_i||_F``, a scalar.

    The input directions of a trained update stand for the inputs of its task, each with the weight of its
    singular value; no data is needed (Cheng et al., 2025, "Whoever Started the Interference Should End It",
    whose objective sums ``||(M - D_i) D_i^T||_F^2 / ||D_i||_F^2``, the square of this over the energy).
    """
    acts = (merged.u * merged.s) @ ((merged.v.T @ one.v) * one.s)
    residual: Tensor = torch.linalg.matrix_norm(acts - one.u * one.s.square())
    return residual


@dataclass(frozen=True)
class Triples:
    """The singular triples of all updates of one weight in one row, ``R`` of them.

    Attributes:
        s: singular values, ``(R,)``.
        left: inner products of the output directions, ``(R, R)``.
        right: inner products of the input directions, ``(R, R)``.
        spans: which of them each update has.
    """

    s: Tensor
    left: Tensor
    right: Tensor
    spans: tuple[slice, ...]

    @classmethod
    def of(cls, updates: Sequence[Update]) -> Triples:
        """Returns the triples of the updates in their order."""
        ends = accumulate((each.rank for each in updates), initial=0)
        spans = tuple(slice(start, end) for start, end in pairwise(ends))
        u, v = (torch.cat([getattr(each, side) for each in updates], dim=1) for side in ("u", "v"))
        return cls(torch.cat([each.s for each in updates]), u.T @ u, v.T @ v, spans)

    def interference(self) -> Tensor:
        """Returns what :func:`singular_task_interference` does."""
        eye = torch.eye(self.s.numel(), dtype=self.s.dtype)
        return ((self.left - eye) * self.s @ (self.right - eye)).abs().sum()


def overlap_of(between: Tensor, a: int, b: int) -> Tensor:
    """Returns :func:`overlap` from inner products ``(r1, r2)`` of directions, the first ``a`` and ``b``."""
    return between[:a, :b].square().sum() / max(min(a, b), 1)


def inside_both_of(left: Tensor, right: Tensor, s: Tensor) -> Tensor:
    """Returns the energy, not its share, of :func:`energy_inside_both` from inner products ``(r1, r2)``."""
    return ((left.T * s) @ right).square().sum()


def share(part: Tensor, whole: Tensor) -> Tensor:
    """Returns ``part / whole``, 0 where the whole is 0."""
    return torch.where(whole > 0, part / torch.where(whole > 0, whole, 1), 0)
