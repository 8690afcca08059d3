"""The shape of an update: how many directions it has, and how its energy is spread over them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from contpeft.merging.budget import rank_for_energy
from contpeft.merging.update import significant

__all__ = ["ENERGIES", "Spectrum", "effective_rank", "singular_values", "spectrum"]

# The shares of energy for which ranks are told.
ENERGIES: Final = (0.9, 0.95, 0.99)


@dataclass(frozen=True)
class Spectrum:
    """The singular values of one update, and the numbers people read off them.

    Attributes:
        shape: ``(d_out, d_in)`` of the weight.
        values: singular values above rounding, going down.
        effective_rank: see :func:`effective_rank`.
        stable_rank: ``||D||_F^2 / ||D||_2^2``, never above the rank; 0 for a zero update.
        frobenius: ``||D||_F``.
        spectral: ``||D||_2``, the largest singular value.
        top_share: the share of the energy in the largest singular value; 0 for a zero update.
        energy_ranks: the smallest ranks that hold 90, 95 and 99 % of the energy ``sum(S^2)``.
    """

    shape: tuple[int, int]
    values: tuple[float, ...]
    effective_rank: float
    stable_rank: float
    frobenius: float
    spectral: float
    top_share: float
    energy_ranks: tuple[int, ...]

    @property
    def rank(self) -> int:
        """The numerical rank."""
        return len(self.values)


def singular_values(b: Tensor, a: Tensor, scale: float = 1.0) -> Tensor:
    """Returns the singular values of ``scale * b @ a`` above rounding, going down, in float64.

    For less than the canonical form costs: the directions are never made.

    Args:
        b: ``(d_out, r)``.
        a: ``(r, d_in)``.
        scale: what the product is multiplied by; its sign is of no matter.
    """
    left, right = (torch.linalg.qr(each.double(), mode="r").R for each in (b, a.T))
    s: Tensor = torch.linalg.svdvals(left @ right.T) * abs(scale)
    return s[significant(s)]


def spectrum(s: Tensor, shape: tuple[int, int]) -> Spectrum:
    """Returns the spectrum of the update with these singular values.

    Args:
        s: ``(r,)``, positive, going down, as of :func:`singular_values` or an ``Update``.
        shape: ``(d_out, d_in)`` of the weight.
    """
    energy, largest = float(s.square().sum()), float(s[0]) if s.numel() else 0.0
    return Spectrum(
        shape=shape,
        values=tuple(s.tolist()),
        effective_rank=effective_rank(s),
        stable_rank=energy / largest**2 if largest else 0.0,
        frobenius=float(torch.linalg.vector_norm(s)),
        spectral=largest,
        top_share=largest**2 / energy if energy else 0.0,
        energy_ranks=tuple(rank_for_energy(s, share) for share in ENERGIES),
    )


def effective_rank(s: Tensor) -> float:
    """Returns the exponential of the entropy of singular values, 1 to their number; 0 if all are zero.

    The entropy is that of ``s / sum(s)`` (Roy and Vetterli, 2007, "The Effective Rank").

    Args:
        s: ``(r,)``, none negative.
    """
    total = s.sum()
    if not bool(total > 0):
        return 0.0
    p = s[s > 0] / total
    return float((-(p * p.log()).sum()).exp())
