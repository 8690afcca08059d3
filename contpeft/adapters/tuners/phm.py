"""Linear layers whose weight is a sum of Kronecker products: parameterised hypercomplex multiplication."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["PHMLinear", "fresh_rule", "phm_weight"]


class PHMLinear(nn.Module):
    """A linear layer with a PHM weight of low rank (Mahabadi et al., 2021, sections 3 and 4).

    Args:
        inputs: width of what it reads; a multiple of ``n``.
        outputs: width of what it returns; a multiple of ``n``.
        n: number of Kronecker products.
        rank: of their right factors.
        like: a tensor on the device and of the type the parameters get.
    """

    def __init__(self, inputs: int, outputs: int, n: int, rank: int, like: Tensor) -> None:
        super().__init__()
        for size in (inputs, outputs):
            if size % n:
                raise ValueError(
                    f"phm_dim={n} must divide the width of the model and that of the bottleneck, and does "
                    f"not divide {size}; change phm_dim or reduction_factor"
                )
        self.left = nn.Parameter(like.new_empty(n, inputs // n, rank))
        self.right = nn.Parameter(like.new_empty(n, rank, outputs // n))
        self.bias = nn.Parameter(like.new_zeros(outputs))
        nn.init.normal_(self.left, std=math.sqrt(1 / (rank * self.left.shape[1])))
        nn.init.normal_(self.right)

    def forward(self, x: Tensor, rule: Tensor) -> Tensor:
        """Returns ``x W + b``, shape ``(..., outputs)``; ``rule`` as for :func:`phm_weight`."""
        return x @ phm_weight(rule, self.left, self.right) + self.bias


def phm_weight(rule: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Returns the sum over ``i`` of ``rule[i]`` (Kronecker) ``left[i] @ right[i]``.

    Args:
        rule: ``(n, n, n)``, shared by all layers of an adapter.
        left: ``(n, inputs / n, rank)``.
        right: ``(n, rank, outputs / n)``.

    Returns:
        The weight, ``(inputs, outputs)``.
    """
    n, rows, columns = rule.shape[0], left.shape[1], right.shape[2]
    total = torch.einsum("iab,ick,ikd->acbd", rule, left, right)
    return total.reshape(n * rows, n * columns)


def fresh_rule(n: int, like: Tensor) -> nn.Parameter:
    """Returns a random rule ``(n, n, n)`` with which a weight is about as large as a dense layer's."""
    return nn.Parameter(torch.randn(n, n, n, device=like.device, dtype=like.dtype) / math.sqrt(n))
