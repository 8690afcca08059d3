"""Isotropic merging: every direction of the result counts the same."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from contpeft.merging.core import CoreSpace
from contpeft.merging.rules.base import STRICT, Core, RuleSpec
from contpeft.merging.site import Site
from contpeft.merging.update import Update, decompose, polar

__all__ = ["IsoC", "IsoCts"]


@dataclass(frozen=True, config=STRICT)
class IsoC(Core):
    """The sum of all updates, every singular value set to their mean (Marczak et al., 2025, section 4.1).

    The mean is over the directions the sum has. Over all ``min(d_out, d_in)`` of the matrix, as published for
    full fine-tuning, most of the energy of a low-rank sum would go where no adapter ever was.

    Attributes:
        scale: one factor for the result; the paper picks it on held-out data.
    """

    scale: float = 1.0

    spec: ClassVar[RuleSpec] = RuleSpec(
        "iso-c",
        "sum with equal singular values",
        "Marczak et al. (2025)",
        variant="mean over the directions of the sum",
        keeps_one=False,
    )

    def core(self, site: Site) -> Tensor:
        """Returns the merged core."""
        total = decompose(site.space.cores.sum(0))
        mean = total.s.sum() / max(1, total.rank)
        return self.scale * mean * (total.u @ total.v.T)


@dataclass(frozen=True, config=STRICT)
class IsoCts(Core):
    """Common directions of the sum, then each adapter's own, all equal (Marczak et al., 2025, section 4.2).

    Within the directions that the updates have: the first ones of the sum are common, and each update gives
    an equal number of its own from what is left of it outside the common output directions.

    Attributes:
        common: the share of directions that are common, before what is left is dealt out evenly.
        scale: one factor for the result.
    """

    common: Annotated[float, Field(ge=0, le=1)] = 0.8
    scale: float = 1.0

    spec: ClassVar[RuleSpec] = RuleSpec(
        "iso-cts",
        "common and own directions, equal singular values",
        "Marczak et al. (2025)",
        variant="within the directions that the updates have",
        keeps_one=False,
    )

    def core(self, site: Site) -> Tensor:
        """Returns the merged core."""
        u, s, v = self._directions(site.space)
        mean = s.sum() / max(1, s.numel())
        return self.scale * mean * (polar(u) @ polar(v).T)

    def _directions(self, core: CoreSpace) -> tuple[Tensor, Tensor, Tensor]:
        k, size = len(core.cores), min(core.cores.shape[1:])
        own = round((size - int(self.common * size)) / k)
        total = decompose(core.cores.sum(0))
        shared = total.u[:, : max(0, size - own * k)]
        parts = [Update(shared, total.s[: shared.shape[1]], total.v[:, : shared.shape[1]])]
        rests = core.cores - shared @ (shared.T @ core.cores)
        for rest in map(decompose, rests):
            parts.append(Update(rest.u[:, :own], rest.s[:own], rest.v[:, :own]))
        return (
            torch.cat([part.u for part in parts], dim=1),
            torch.cat([part.s for part in parts]),
            torch.cat([part.v for part in parts], dim=1),
        )
