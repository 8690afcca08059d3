"""Random features: what makes a linear rule bend.

McDonnell et al. 2023, "RanPAC: Random Projections and Pre-trained Models for Continual Learning", NeurIPS,
arXiv 2307.02251, section 3.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from contpeft.errors import SpecError

__all__ = ["RandomFeatures", "lift", "random_map"]


class RandomFeatures(nn.Module):
    """``relu(Wr' f)`` with ``Wr`` drawn from a seed, once the width of the features is known.

    Args:
        width: how many, ``M``; 0 to leave features as they are.
        seed: of ``Wr``.

    Raises:
        SpecError: if the width is negative.
    """

    drawn: Tensor

    def __init__(self, width: int, seed: int) -> None:
        super().__init__()
        if width < 0:
            raise SpecError(f"there are no {width} random features; give 1 or more, or 0 for none")
        self.width, self.seed = width, seed
        self.register_buffer("drawn", torch.empty(0, 0, dtype=torch.float64), persistent=False)

    def forward(self, unit: Tensor) -> Tensor:
        """Returns ``(B, M)`` of unit-length features ``(B, d)``.

        Raises:
            SpecError: if features before were of another width.
        """
        if self.width and not self.drawn.numel():
            self.drawn = random_map(unit.shape[1], self.width, self.seed).to(unit.device)
        if self.width and len(self.drawn) != unit.shape[1]:
            raise SpecError(
                f"random features are of features of width {len(self.drawn)}, got {unit.shape[1]}"
            )
        return lift(unit, self.drawn)


def random_map(width: int, lifted: int, seed: int) -> Tensor:
    """Returns ``Wr`` ``(width, lifted)``, standard normal, the same for a seed; empty if ``lifted`` is 0."""
    return torch.randn(
        width if lifted else 0, lifted, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def lift(unit: Tensor, drawn: Tensor) -> Tensor:
    """Returns ``relu(f Wr)`` of unit-length features ``(n, d)``; these themselves if ``drawn`` is empty."""
    return (unit @ drawn).relu() if drawn.numel() else unit
