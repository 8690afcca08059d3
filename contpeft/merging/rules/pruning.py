"""Rules that keep entries by their magnitude."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

import torch
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor

from contpeft.merging.rules.base import STRICT, Entrywise, RuleSpec, Share, Space
from contpeft.merging.rules.entries import largest, ranks
from contpeft.merging.site import Site

__all__ = ["Breadcrumbs", "MagMax", "Prune"]


@dataclass(frozen=True, config=STRICT)
class Prune(Entrywise):
    """Keep the largest entries of each adapter, add up.

    Attributes:
        density: the share that stays.
        space: the coordinates.
    """

    density: Share = 0.5
    space: Space = "core"

    spec: ClassVar[RuleSpec] = RuleSpec(
        "prune",
        "keep the largest entries, add",
        "Han et al. (2015)",
        variant="equal magnitudes: lowest index",
        keeps_one=False,
    )

    def entries(self, stack: Tensor, site: Site) -> Tensor:
        """Returns the sum of the largest entries."""
        return (stack * largest(stack, self.density)).sum(0)


@dataclass(frozen=True, config=STRICT)
class Breadcrumbs(Entrywise):
    """Drop each adapter's largest and smallest entries, add up (Davari & Belilovsky, 2024, section 3).

    Attributes:
        density: the share that stays.
        outliers: the share of the largest entries that goes.
        scale: one factor for the result.
        space: the coordinates.
    """

    density: Share = 0.9
    outliers: Annotated[float, Field(ge=0, lt=1)] = 0.01
    scale: float = 1.0
    space: Space = "core"

    spec: ClassVar[RuleSpec] = RuleSpec(
        "breadcrumbs",
        "drop both tails, add",
        "Davari & Belilovsky (2024)",
        variant="equal magnitudes: lowest index is larger",
        keeps_one=False,
    )

    @model_validator(mode="after")
    def _in_range(self) -> Self:
        if self.density + self.outliers > 1:
            raise ValueError("density and outliers are shares of the same entries; together at most 1")
        return self

    def entries(self, stack: Tensor, site: Site) -> Tensor:
        """Returns the sum of the entries between the tails."""
        flat = stack.flatten(1)
        n = flat.shape[1]
        top = int(self.outliers * n)
        bottom = n - int(self.density * n) - top
        places = ranks(flat)
        kept = (places >= bottom) & (places < n - top)
        return self.scale * (flat * kept).sum(0).reshape(stack.shape[1:])


@dataclass(frozen=True, config=STRICT)
class MagMax(Entrywise):
    """Keep of each entry the one of largest magnitude (Marczak et al., 2024, section 4).

    It suits adapters that were trained one from another; for independent ones the paper reports less.

    Attributes:
        scale: one factor for the result; the paper's is 0.5.
        space: the coordinates.
    """

    scale: float = 1.0
    space: Space = "core"

    spec: ClassVar[RuleSpec] = RuleSpec(
        "magmax",
        "largest magnitude of each entry",
        "Marczak et al. (2024)",
        variant="opposite entries of equal magnitude: the positive one",
    )

    def entries(self, stack: Tensor, site: Site) -> Tensor:
        """Returns the entries of largest magnitude."""
        low, high = stack.amin(0), stack.amax(0)
        return self.scale * torch.where(high.abs() >= low.abs(), high, low)
