"""Task singular vectors."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from contpeft.merging.budget import rank_for_energy
from contpeft.merging.rules.base import STRICT, Core, RuleSpec, Share
from contpeft.merging.site import Site
from contpeft.merging.update import polar, truncated

__all__ = ["Tsv"]


@dataclass(frozen=True, config=STRICT)
class Tsv(Core):
    """Singular vectors of all updates side by side, each side whitened (Gargiulo et al., 2025, section 4).

    ``polar([U_1 ... U_k]) diag(S_1 ... S_k) polar([V_1 ... V_k])^T``. The paper takes ``min(d_out, d_in) /
    k`` triples of a full matrix. A LoRA update has ``r`` and no more: the others would be null vectors, of
    which any choice is as good as any other and each gives another merge. So the true triples are taken,
    all of them unless ``keep`` says less; that is TSV in core space.

    Attributes:
        keep: the share of each update's energy whose triples are taken.
        scale: one factor for the result.
    """

    keep: Share = 1.0
    scale: float = 1.0

    spec: ClassVar[RuleSpec] = RuleSpec(
        "tsv",
        "whitened singular vectors",
        "Gargiulo et al. (2025)",
        variant="all true triples of each update; dependent directions share their place",
    )

    def core(self, site: Site) -> Tensor:
        """Returns the merged core."""
        kept = [truncated(part, rank_for_energy(part.s, self.keep))[0] for part in site.space.parts]
        u = polar(torch.cat([update.u for update in kept], dim=1))
        v = polar(torch.cat([update.v for update in kept], dim=1))
        return self.scale * (u * torch.cat([update.s for update in kept])) @ v.T
