"""One weight and the updates of it that are merged: what a rule is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from contpeft.merging.core import CoreSpace, core_space
from contpeft.merging.layout import Term
from contpeft.merging.update import Update, canonical, scaled

__all__ = ["Site"]


@dataclass(frozen=True, eq=False)
class Site:
    """The updates of one weight; an adapter that leaves it alone has none here.

    Attributes:
        module: dotted path of the module.
        terms: the factors of each update, as they were stored.
        weights: what each is worth, none of them 0.
        sources: a digest of each adapter.
        places: which of all adapters each is, going up.
        total: the weights of all adapters together, of those without an update here too.
        count: the number of all adapters.
        seed: of the whole merge.
        dtype: what to compute in.
        elementwise: True if the weight is a vector, ``(d_out, 1)``, whose entries act one by one.
        moments: what is known of each adapter's data at this module: ``"gram"`` ``(d_in, d_in)``, the sum of
            ``x x^T`` over inputs ``x``; ``"fisher_in"`` ``(d_in,)`` and ``"fisher_out"`` ``(d_out,)``, whose
            outer product is the Fisher diagonal. Empty where nothing is.
    """

    module: str
    terms: tuple[Term, ...]
    weights: tuple[float, ...]
    sources: tuple[str, ...]
    places: tuple[int, ...]
    total: float
    count: int
    seed: int = 0
    dtype: torch.dtype = torch.float64
    elementwise: bool = False
    moments: tuple[Mapping[str, Tensor], ...] = field(default=())

    @cached_property
    def shape(self) -> tuple[int, int]:
        """``(d_out, d_in)`` of the weight."""
        b, a, _ = self.terms[0]
        return b.shape[0], a.shape[1]

    @cached_property
    def updates(self) -> tuple[Update, ...]:
        """The updates in canonical form, weights left out."""
        return tuple(canonical(*term, dtype=self.dtype) for term in self.terms)

    @cached_property
    def weighted(self) -> tuple[Update, ...]:
        """The updates in canonical form, each times its weight."""
        pairs = zip(self.updates, self.weights, strict=True)
        return tuple(scaled(update, weight) for update, weight in pairs)

    @cached_property
    def space(self) -> CoreSpace:
        """The core space of the weighted updates."""
        pairs = zip(self.terms, self.weights, strict=True)
        return core_space([(b, a, scale * weight) for (b, a, scale), weight in pairs], dtype=self.dtype)
