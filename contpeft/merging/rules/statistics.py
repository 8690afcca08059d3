"""Rules that know something of each adapter's data."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from contpeft.merging.rules.base import STRICT, Rule, RuleSpec, Share
from contpeft.merging.site import Site
from contpeft.merging.update import Update, combine, decompose

__all__ = ["Fisher", "RegMean"]


@dataclass(frozen=True, config=STRICT)
class RegMean(Rule):
    """Outputs nearest to each adapter's on that one's own inputs (Jin et al., 2023, section 3).

    ``(sum_i D_i G_i) (sum_i G_i)^-1`` with ``G_i`` the Gram matrix of inputs. The left factors stay as they
    are, so that only ``A_i G_i (sum_j G_j)^-1`` is computed, and the rank is that of the plain sum.

    Attributes:
        shrink: what entries off the diagonal of each Gram matrix are multiplied by, against overfitting.
    """

    shrink: Share = 0.9

    spec: ClassVar[RuleSpec] = RuleSpec(
        "regmean",
        "least squares on each one's inputs",
        "Jin et al. (2023)",
        needs=("gram",),
        variant="weights multiply the Gram matrices; Gram matrices of equal trace",
        negative=False,
    )

    def merge(self, site: Site) -> Update:
        """Returns the minimum."""
        grams = [
            self._gram(moments["gram"], weight, site)
            for moments, weight in zip(site.moments, site.weights, strict=True)
        ]
        inverse = torch.linalg.pinv(torch.stack(grams).sum(0), hermitian=True)
        pairs = zip(site.terms, grams, strict=True)
        return combine(
            [(b, a.to(site.dtype) @ gram @ inverse, scale) for (b, a, scale), gram in pairs], dtype=site.dtype
        )

    def _gram(self, gram: Tensor, weight: float, site: Site) -> Tensor:
        values = gram.to(site.dtype)
        diagonal = torch.diag(values.diagonal())
        shrunk = self.shrink * values + (1 - self.shrink) * diagonal
        trace = shrunk.diagonal().sum()
        return shrunk * (weight / trace) if bool(trace > 0) else shrunk


@dataclass(frozen=True, config=STRICT)
class Fisher(Rule):
    """The mean of updates, each entry weighted by how much it matters (Matena & Raffel, 2022, section 3).

    ``sum_i w_i F_i * D_i / sum_i w_i F_i`` with ``F_i`` the Fisher diagonal, kept as the outer product of the
    mean squares of inputs and of output gradients. The quotient has full rank.

    Attributes:
        floor: added to each Fisher diagonal, as a share of its mean: where nothing matters, the plain mean.
    """

    floor: Annotated[float, Field(gt=0)] = 1e-6

    spec: ClassVar[RuleSpec] = RuleSpec(
        "fisher",
        "mean weighted by importance",
        "Matena & Raffel (2022)",
        needs=("fisher_in", "fisher_out"),
        variant="Fisher diagonal as an outer product; an adapter without the module has no say in it",
        negative=False,
    )

    @property
    def dense(self) -> bool:
        """A quotient of matrices keeps no rank."""
        return True

    def merge(self, site: Site) -> Update:
        """Returns the weighted mean."""
        above = torch.zeros(site.shape, dtype=site.dtype)
        below = torch.zeros(site.shape, dtype=site.dtype)
        for (b, a, scale), weight, moments in zip(site.terms, site.weights, site.moments, strict=True):
            importance = torch.outer(
                moments["fisher_out"].to(site.dtype), moments["fisher_in"].to(site.dtype)
            )
            mean = importance.mean()
            importance = weight * (
                importance / mean + self.floor if bool(mean > 0) else importance + self.floor
            )
            above += importance * ((b.to(site.dtype) * scale) @ a.to(site.dtype))
            below += importance
        return decompose(above / below)
