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
from contpeft.merging.update import Update, balanced_factors, canonical, significant

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
    # The V_i have orthonormal columns: beside each other, the D_i have the singular values of the U_i S_i.
    _, output = _directions([each.u * each.s for each in updates])
    _, input_ = _directions([each.v * each.s for each in updates])
    return output, input_


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
    outputs, _ = _directions([each.u * each.s for each in updates])
    inputs, _ = _directions([each.v * each.s for each in updates])
    x = [outputs.T @ (each.u * each.s) for each in updates]
    y = [inputs.T @ each.v for each in updates]  # the cores are x_i y_i^T, and never made
    v = torch.eye(inputs.shape[1], dtype=inputs.dtype)[:, :q]
    u, held = _leading(x, y, v, p)
    for _ in range(_SWEEPS):
        before = held
        v, _ = _leading(y, x, u, q)
        u, held = _leading(x, y, v, p)
        if bool(held - before <= _GAIN * held):
            break
    return SharedBasis(outputs @ u, inputs @ v)


def coordinates(update: Update, basis: SharedBasis) -> tuple[Tensor, Tensor]:
    """Returns factors ``(p, r)`` and ``(r, q)`` between the bases, nearest to an update.

    By least squares, so that bases which were rounded when stored, and are orthonormal no more, serve as
    well. The factors are balanced, and ``r`` is what is left of the update's rank, perhaps 0.
    """
    left = torch.linalg.lstsq(basis.u, update.u * update.s.sqrt()).solution
    right = torch.linalg.lstsq(basis.v, update.v * update.s.sqrt()).solution
    return balanced_factors(canonical(left, right.T, dtype=left.dtype))


def _directions(parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Returns left singular vectors ``(d, n)`` and values ``(n,)`` of parts side by side, above rounding."""
    q, r = torch.linalg.qr(torch.cat(list(parts), dim=1))
    u, s, _ = torch.linalg.svd(r, full_matrices=False)
    keep = significant(s)
    return q @ u[:, keep], s[keep]


def _leading(
    near: Sequence[Tensor], far: Sequence[Tensor], basis: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """Returns the leading directions of one side, with the other side in its basis, and their energy.

    They are the left singular vectors of all ``near_i @ far_i.T @ basis`` side by side, from a Gram matrix:
    it is small, and which of the weak directions come last, where it is inexact, hardly matters.

    Args:
        near: ``(d, r_i)`` of each update.
        far: ``(e, r_i)`` of each update.
        basis: ``(e, n)``.
        count: how many; fewer if ``d`` is less.
    """
    inside = [each.T @ basis for each in far]
    weighted = torch.cat([n @ (i @ i.T) for n, i in zip(near, inside, strict=True)], dim=1)
    energies, vectors = torch.linalg.eigh(weighted @ torch.cat(list(near), dim=1).T)
    first = max(len(energies) - count, 0)
    return vectors[:, first:].flip(1), energies[first:].sum()
