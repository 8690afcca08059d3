"""What entrywise rules are made of: which entries stay, which sign wins, how survivors are averaged."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

__all__ = ["Divide", "elect", "largest", "merge_agreeing", "ranks"]

# What a sum of agreeing entries is divided by: how many they are, their weights, or nothing.
Divide = Literal["count", "weights", "none"]


def ranks(stack: Tensor) -> Tensor:
    """Returns the place of each value along the last dimension by magnitude, 0 the smallest.

    Of equal magnitudes the one that comes first ranks higher, whatever the sorting algorithm.
    """
    order = stack.abs().flip(-1).argsort(dim=-1, stable=True)
    places = torch.empty_like(order)
    places.scatter_(-1, order, torch.arange(stack.shape[-1]).expand_as(order))
    return places.flip(-1)


def largest(stack: Tensor, density: float) -> Tensor:
    """Returns a mask of the ``int(density * n)`` largest entries of each matrix, one at least.

    Of equal magnitudes the first ones are taken.

    Args:
        stack: ``(k, p, q)``, with ``n = p * q``.
        density: the share to keep.
    """
    flat = stack.flatten(1).abs()
    n = flat.shape[1]
    kept = max(1, int(density * n))
    limit = flat.kthvalue(n - kept + 1, dim=1, keepdim=True).values
    above, equal = flat > limit, flat == limit
    room = kept - above.sum(1, keepdim=True)
    return (above | (equal & (equal.cumsum(1) <= room))).reshape(stack.shape)


def elect(stack: Tensor) -> Tensor:
    """Returns the sign of each entry's sum over ``k``, ``(p, q)``; +1 where the sum is 0."""
    return torch.where(stack.sum(0) >= 0, 1.0, -1.0).to(stack.dtype)


def merge_agreeing(stack: Tensor, weights: tuple[float, ...], divide: Divide) -> Tensor:
    """Returns the mean of the entries that have the elected sign; 0 where none has.

    Args:
        stack: ``(k, p, q)``, each times its weight.
        weights: those weights.
        divide: what the sum of the agreeing entries is divided by.

    Returns:
        ``(p, q)``.
    """
    agreeing = stack * elect(stack) > 0
    total = torch.where(agreeing, stack, 0).sum(0)
    if divide == "none":
        return total
    worth = (
        torch.tensor(weights, dtype=stack.dtype).abs() if divide == "weights" else stack.new_ones(len(stack))
    )
    parts = (agreeing * worth[:, None, None]).sum(0)
    return torch.where(parts > 0, total / torch.where(parts > 0, parts, 1), 0)
