"""Many updates of one weight on two shared bases, each with small factors of its own.

The idea of Brüel-Gabrielsson et al. (2024), "Compress then Serve": what a collection of adapters has in
common is stored once. Here the bases are those of a truncated Tucker decomposition of the stack of updates
in two modes (De Lathauwer et al., 2000), found by alternating sweeps on their cores, and each update keeps
its rank: in the bases it is a product of two small factors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from contpeft.merging.budget import water_fill
from contpeft.merging.core import core_space
from contpeft.merging.update import Update, balanced_factors, canonical

__all__ = ["Cost", "SharedBasis", "coordinates", "fill", "mode_spectra", "shared_basis"]

_SWEEPS: Final = 20
# Sweeps end when the energy held grows by no more than this part of it.
_GAIN: Final = 1e-6


@dataclass(frozen=True)
class SharedBasis:
    """Directions that all updates of one weight are told in.

    Attributes:
        u: ``(d_out, p)``.
        v: ``(d_in, q)``.
    """

    u: Tensor
    v: Tensor


@dataclass(frozen=True)
class Cost:
    """What one more direction of each basis takes when stored, with the coordinates along it, in bytes."""

    output: int
    input: int


def mode_spectra(updates: Sequence[Update]) -> tuple[Tensor, Tensor]:
    """Returns the singular values of updates side by side, and of updates below each other, going down.

    What a basis leaves out of the outputs, and of the inputs: the squared error of both truncations
    together is at most the sum of the squares of all values cut off.

    Args:
        updates: of one weight, one or more.
    """
    cores = core_space(updates).cores
    return (
        torch.linalg.svdvals(torch.cat(list(cores), dim=1)),
        torch.linalg.svdvals(torch.cat(list(cores), dim=0)),
    )


def fill(
    spectra: Mapping[str, tuple[Tensor, Tensor]], costs: Mapping[str, Cost], budget: int
) -> dict[str, tuple[int, int]]:
    """Shares a budget among the bases of all weights, by the energy each direction adds for its bytes.

    Args:
        spectra: of :func:`mode_spectra`, of each weight.
        costs: of each weight.
        budget: bytes for all together.

    Returns:
        ``p`` and ``q`` of the weights that get any.
    """
    there = dict(spectra)
    while True:
        sizes = _filled(there, costs, budget)
        # Directions of one side alone hold nothing; others can have their bytes.
        empty = [name for name, size in sizes.items() if 0 in size]
        if not empty:
            return sizes
        for name in empty:
            del there[name]


def _filled(
    spectra: Mapping[str, tuple[Tensor, Tensor]], costs: Mapping[str, Cost], budget: int
) -> dict[str, tuple[int, int]]:
    sides = {(name, side): pair[side] for name, pair in spectra.items() for side in (0, 1)}
    keys = {f"{name} {side}": (name, side) for name, side in sides}
    prices = {key: costs[name].input if side else costs[name].output for key, (name, side) in keys.items()}
    ranks = water_fill({key: sides[each] for key, each in keys.items()}, prices, budget)
    return {name: (ranks[f"{name} 0"], ranks[f"{name} 1"]) for name in spectra}


def shared_basis(updates: Sequence[Update], p: int, q: int) -> SharedBasis:
    """Returns bases of ``p`` output and ``q`` input directions that hold the most energy of all updates.

    Alternating least squares from the leading directions of each side (higher-order orthogonal iteration,
    De Lathauwer et al., 2000): no sweep makes it worse.

    Args:
        updates: of one weight, one or more, each counting by its energy.
        p: at most so many output directions.
        q: at most so many input directions.
    """
    space = core_space(updates)
    v = torch.eye(space.v.shape[1], dtype=space.v.dtype)[:, :q]
    u, held = _leading(space.cores @ v, p)
    for _ in range(_SWEEPS):
        before = held
        v, _ = _leading(space.cores.mT @ u, q)
        u, held = _leading(space.cores @ v, p)
        if bool(held - before <= _GAIN * held):
            break
    return SharedBasis(space.u @ u, space.v @ v)


def coordinates(update: Update, basis: SharedBasis) -> tuple[Tensor, Tensor]:
    """Returns factors ``(p, r)`` and ``(r, q)`` between the bases, nearest to an update.

    By least squares, so that bases which were rounded when stored, and are orthonormal no more, serve as
    well. The factors are balanced, and ``r`` is what is left of the update's rank, perhaps 0.
    """
    left = torch.linalg.lstsq(basis.u, update.u * update.s.sqrt()).solution
    right = torch.linalg.lstsq(basis.v, update.v * update.s.sqrt()).solution
    return balanced_factors(canonical(left, right.T, dtype=left.dtype))


def _leading(parts: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Returns the leading left singular vectors of parts side by side, and the energy they hold.

    From the eigenvectors of a Gram matrix: it is small, and which of the weak directions come last, where
    it is inexact, hardly matters.

    Args:
        parts: ``(k, d, n)``.
        count: of vectors; fewer if ``d`` is less.
    """
    energies, vectors = torch.linalg.eigh(torch.einsum("kdn,ken->de", parts, parts))
    first = max(len(energies) - count, 0)
    return vectors[:, first:].flip(1), energies[first:].sum()
