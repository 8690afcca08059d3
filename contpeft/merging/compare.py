"""How updates relate: inner products, distances, angles and shares, all from small matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from contpeft.merging.update import Update, combine

__all__ = [
    "cosines",
    "distance",
    "energy_inside",
    "gram",
    "inner",
    "principal_cosines",
    "principal_sines",
]

Side = Literal["output", "input"]


def inner(one: Update, other: Update) -> Tensor:
    """Returns the Frobenius inner product of two updates, a scalar."""
    between = (one.u.T @ other.u) * (one.v.T @ other.v)
    return one.s @ between @ other.s


def gram(updates: Sequence[Update]) -> Tensor:
    """Returns all inner products, ``(k, k)``, symmetric."""
    rows = [[inner(one, other) for other in updates[: place + 1]] for place, one in enumerate(updates)]
    lower = torch.stack([torch.stack([*row, *row[:1] * (len(updates) - len(row))]) for row in rows]).tril()
    return lower + lower.tril(-1).T


def cosines(updates: Sequence[Update]) -> Tensor:
    """Returns the cosine of every pair, ``(k, k)``: 1 the same direction, -1 opposed; 0 for a zero update."""
    products = gram(updates)
    norms = products.diagonal().sqrt()
    safe = torch.where(norms > 0, norms, 1)
    return (products / torch.outer(safe, safe)).clamp(-1, 1)


def distance(one: Update, other: Update) -> Tensor:
    """Returns the Frobenius norm of the difference, a scalar.

    From the factors of the difference itself: in ``n1^2 + n2^2 - 2 <1, 2>`` nearly equal numbers cancel, and
    of a small distance nothing is left.
    """
    terms = [(update.u * update.s, update.v.T, weight) for update, weight in ((one, 1.0), (other, -1.0))]
    return combine(terms, dtype=one.s.dtype).norm


def principal_cosines(one: Update, other: Update, side: Side) -> Tensor:
    """Returns the cosines of the principal angles between two ranges, largest first.

    Args:
        one: an update of rank ``r1``.
        other: an update of rank ``r2``.
        side: ``"output"`` compares what the updates write to, ``"input"`` what they read from.

    Returns:
        ``(min(r1, r2),)``, from 0 (orthogonal) to 1 (a shared direction).
    """
    a, b = _basis(one, side), _basis(other, side)
    values: Tensor = torch.linalg.svdvals(a.T @ b)
    return values.clamp(0, 1)


def principal_sines(one: Update, other: Update, side: Side) -> Tensor:
    """Returns the sines of the principal angles of ``one`` against ``other``, smallest first, ``(r1,)``.

    Small angles need this form: their cosines are 1 to half of all digits.
    """
    a, b = _basis(one, side), _basis(other, side)
    values: Tensor = torch.linalg.svdvals(a - b @ (b.T @ a))
    return values.clamp(0, 1).flip(0)


def energy_inside(one: Update, other: Update, side: Side) -> Tensor:
    """Returns the share of an update's energy that lies in the range of another one, 0 to 1, a scalar.

    That much of ``one`` a projection against ``other`` would take away.
    """
    inside = _basis(other, side).T @ (_basis(one, side) * one.s)
    total = one.s.square().sum()
    return inside.square().sum() / total if bool(total > 0) else total


def _basis(update: Update, side: Side) -> Tensor:
    return update.u if side == "output" else update.v
