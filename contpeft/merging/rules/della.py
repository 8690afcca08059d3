"""DELLA: drop at random, the small ones more often."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

import torch
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor

from contpeft.merging.random import keep_mask
from contpeft.merging.rules.base import STRICT, Entrywise, RuleSpec, Share, Space
from contpeft.merging.rules.entries import Divide, merge_agreeing, ranks
from contpeft.merging.site import Site

__all__ = ["Della"]


@dataclass(frozen=True, config=STRICT)
class Della(Entrywise):
    """Keep an entry the likelier the larger it is within its row, elect signs, average (Deep et al., 2024).

    Section 3.1, MagPrune: the probability rises linearly with the entry's rank from ``density - spread`` to
    ``density + spread``, and what is kept is divided by its own probability.

    Attributes:
        density: the mean probability of keeping an entry.
        spread: half the range of probabilities.
        divide: what the sum of the agreeing entries is divided by.
        scale: one factor for the result.
        space: the coordinates.
    """

    density: Share = 0.5
    spread: Annotated[float, Field(ge=0, lt=0.5)] = 0.2
    divide: Divide = "count"
    scale: float = 1.0
    space: Space = "core"

    spec: ClassVar[RuleSpec] = RuleSpec(
        "della",
        "drop at random, small ones first, elect",
        "Deep et al. (2024)",
        seeded=True,
        variant="rescaled by each entry's own probability; weights before election; elected sum 0: +1",
        keeps_one=False,
    )

    @model_validator(mode="after")
    def _in_range(self) -> Self:
        if not 0 < self.density - self.spread <= self.density + self.spread <= 1:
            raise ValueError("density - spread must be above 0 and density + spread at most 1")
        return self

    def entries(self, stack: Tensor, site: Site) -> Tensor:
        """Returns the mean of what is kept and agrees."""
        n = stack.shape[-1]
        places = (
            ranks(stack).double() / (n - 1) if n > 1 else torch.full(stack.shape, 0.5, dtype=torch.float64)
        )
        chances = self.density - self.spread + 2 * self.spread * places
        pairs = zip(chances, site.sources, strict=True)
        masks = torch.stack(
            [keep_mask(each, "della", site.seed, site.module, source) for each, source in pairs]
        )
        kept = torch.where(masks, stack / chances.to(stack.dtype), 0)
        return self.scale * merge_agreeing(kept, site.weights, self.divide)
