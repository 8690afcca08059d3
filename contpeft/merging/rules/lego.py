"""LoRA-LEGO: merging rank by rank."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Final

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn import functional as F

from contpeft.merging.random import raw_integers
from contpeft.merging.rules.base import STRICT, Rule, RuleSpec
from contpeft.merging.site import Site
from contpeft.merging.update import Update, balanced_factors, canonical

__all__ = ["Lego"]

# Below this cosine two units count as orthogonal.
_DOUBT: Final = 1e-6


@dataclass(frozen=True, config=STRICT)
class Lego(Rule):
    """Group the rank-1 units of all updates and keep the middle of each group (Zhao et al., 2025, section 4).

    A unit is a row of the right factor with its column of the left one. Groups are those of k-means; a middle
    gets the mean length of its units back, and the product is scaled by the root of rank over
    the number of groups.

    Which units an update falls into depends on how it is split into factors. Here they are its singular
    ones, each half the singular value; of ``(u, v)`` and ``(-u, -v)``, which are the same unit, the one
    nearer to the middle is meant.

    Attributes:
        units: how many groups; 0 for the highest rank among the updates.
        steps: at most so many steps of k-means.
    """

    units: Annotated[int, Field(ge=0)] = 0
    steps: Annotated[int, Field(ge=1)] = 100

    spec: ClassVar[RuleSpec] = RuleSpec(
        "lego",
        "k-means over rank-1 units",
        "Zhao et al. (2025)",
        seeded=True,
        variant="singular units, balanced; distance up to sign; first middles by k-means++",
    )

    def merge(self, site: Site) -> Update:
        """Returns the merged update."""
        pairs = [balanced_factors(update) for update in site.weighted]
        points = torch.cat([torch.cat([b.T, a], dim=1) for b, a in pairs])
        groups = self.units or max(update.rank for update in site.weighted)
        scale = 1.0
        if len(points) > groups:
            points = _middles(points, groups, self.steps, site)
            scale = math.sqrt(max(update.rank for update in site.weighted) / groups)
        d_out = site.shape[0]
        return canonical(points[:, :d_out].T, points[:, d_out:], scale, dtype=site.dtype)


def _middles(points: Tensor, groups: int, steps: int, site: Site) -> Tensor:
    """Returns the middle of each group, at the mean length of its points."""
    middles, owner = _first(points, groups, site), torch.full((len(points),), -1)
    for _ in range(steps):
        inner = points @ middles.T
        nearest = (middles.square().sum(1) - 2 * inner.abs()).argmin(1)
        if torch.equal(nearest, owner):
            break
        owner = nearest
        # Units of one adapter are orthogonal: between them a sign would be an accident of rounding.
        doubt = _DOUBT * points.norm(dim=1, keepdim=True) * middles.norm(dim=1)[owner][:, None]
        signs = torch.where(inner.gather(1, owner[:, None]) < -doubt, -1.0, 1.0).to(points.dtype)
        middles = _means(points * signs, owner, groups)
    sizes = _means(torch.linalg.vector_norm(points, dim=1, keepdim=True), owner, groups)
    return F.normalize(middles, dim=1) * sizes


def _means(values: Tensor, owner: Tensor, groups: int) -> Tensor:
    """Returns the mean of each group's rows; zeros for a group that lost all of them."""
    member = F.one_hot(owner, groups).to(values.dtype)
    means: Tensor = member.T @ values / member.sum(0).clamp_min(1)[:, None]
    return means


def _first(points: Tensor, groups: int, site: Site) -> Tensor:
    """Returns points far from each other, drawn by the distance to those drawn before (k-means++)."""
    drawn = (raw_integers(groups, "lego", site.seed, site.module, *site.sources) >> np.uint64(11)) * 2.0**-53
    squares = points.square().sum(1)
    chosen: list[int] = []
    nearest = squares.clone()
    for share in drawn.tolist():
        reach = nearest.cumsum(0)
        chosen.append(min(int(torch.searchsorted(reach, share * reach[-1], right=True)), len(points) - 1))
        new = points[chosen[-1]]
        nearest = torch.minimum(
            nearest, (squares + new.square().sum() - 2 * (points @ new).abs()).clamp_min(0)
        )
    return points[chosen]
