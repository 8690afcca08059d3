"""DARE: drop at random, rescale the rest."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from contpeft.merging.random import keep_mask
from contpeft.merging.rules.base import STRICT, Entrywise, RuleSpec, Share, Space
from contpeft.merging.rules.entries import Divide, largest, merge_agreeing
from contpeft.merging.site import Site

__all__ = ["Dare", "DareTies"]


@dataclass(frozen=True, config=STRICT)
class Dare(Entrywise):
    """Keep each entry with a probability, divide by it, add up (Yu et al., 2024, section 3.2).

    Over seeds the mean is the plain sum.

    Attributes:
        density: the probability of keeping an entry.
        space: the coordinates.
    """

    density: Share = 0.5
    space: Space = "core"

    spec: ClassVar[RuleSpec] = RuleSpec(
        "dare",
        "drop at random, rescale, add",
        "Yu et al. (2024)",
        seeded=True,
        keeps_one=False,
        variant="rescaled by 1 / density",
    )

    def entries(self, stack: Tensor, site: Site) -> Tensor:
        """Returns the sum of what is kept."""
        return dropped(stack, self.density, site).sum(0)


@dataclass(frozen=True, config=STRICT)
class DareTies(Entrywise):
    """DARE, then the election and the mean of TIES.

    Attributes:
        density: the probability of keeping an entry.
        trim: share of the largest entries that survive afterwards; at 1, as libraries have it, all do.
        divide: what the sum of the agreeing entries is divided by.
        scale: one factor for the result.
        space: the coordinates.
    """

    density: Share = 0.5
    trim: Share = 1.0
    divide: Divide = "count"
    scale: float = 1.0
    space: Space = "core"

    spec: ClassVar[RuleSpec] = RuleSpec(
        "dare-ties",
        "drop at random, rescale, elect signs",
        "Yu et al. (2024), section 4",
        seeded=True,
        variant="rescaled by 1 / density; weights before election; elected sum 0: +1",
        keeps_one=False,
    )

    def entries(self, stack: Tensor, site: Site) -> Tensor:
        """Returns the mean of what is kept and agrees."""
        kept = dropped(stack, self.density, site)
        if self.trim < 1:
            kept = kept * largest(kept, self.trim)
        return self.scale * merge_agreeing(kept, site.weights, self.divide)


def dropped(stack: Tensor, density: float, site: Site) -> Tensor:
    """Returns each matrix of ``(k, p, q)`` with entries dropped at random and the rest rescaled."""
    even = torch.full(stack.shape[1:], density, dtype=torch.float64)
    masks = torch.stack([keep_mask(even, "dare", site.seed, site.module, source) for source in site.sources])
    return torch.where(masks, stack / density, 0)
