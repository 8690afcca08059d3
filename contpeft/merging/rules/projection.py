"""Rules that clear a new update of what the running merge has, and then add it."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Annotated, ClassVar, Self

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from contpeft.merging.budget import rank_for_energy
from contpeft.merging.rules.base import STRICT, Ordered, RuleSpec, Share
from contpeft.merging.site import Site
from contpeft.merging.update import Update, combine

__all__ = ["NullSpace", "Opcm"]


@dataclass(frozen=True, config=STRICT)
class NullSpace(Ordered):
    """Add a new update only where the running merge reads nothing (NUFILT, ICLR 2026).

    ``M + D (I - V V^T)`` with ``V`` the input directions of the running merge ``M``: on whatever earlier
    adapters react to, the result acts as it did before. Of the new update only the right factor changes.

    Attributes:
        protect: the share of the running merge's energy whose input directions are protected.
    """

    protect: Share = 1.0

    spec: ClassVar[RuleSpec] = RuleSpec(
        "null-space",
        "add where the running merge reads nothing",
        "NUFILT (ICLR 2026)",
        variant="input side; the first adapter whole",
        ordered=True,
    )

    def step(self, running: Update, new: Update) -> Update:
        """Returns the running merge and the filtered update."""
        v = running.v[:, : rank_for_energy(running.s, self.protect)]
        right = new.v - v @ (v.T @ new.v)
        terms = [(running.u * running.s, running.v.T, 1.0), (new.u * new.s, right.T, 1.0)]
        return combine(terms, dtype=running.s.dtype)


@dataclass(frozen=True, config=STRICT)
class Opcm(Ordered):
    """Orthogonal projection against the running merge, at a constant norm (Tang et al., 2025, section 4).

    In the singular bases of the running merge the new update loses its block in the leading directions and
    its diagonal. The sum is scaled so that the norm of the whole adapter is the mean norm of those merged;
    scaling at every step, as published, comes to the same, since it changes no direction and is undone by
    the next.

    Attributes:
        block: leading directions are those before the sum of singular values passes this share. seen: how
        many adapters the first one is a merge of already, at its norm before scaling; 0 if it is one
            of its own.
        mean_norm: the mean norm of those.
        factor: what the sum is multiplied by; learnt.
        mean: the mean norm of all adapters merged; learnt.
    """

    block: Annotated[float, Field(ge=0, lt=1)] = 0.5
    seen: Annotated[int, Field(ge=0)] = 0
    mean_norm: Annotated[float, Field(ge=0)] = 0.0
    factor: float = Field(default=1.0, init=False, repr=False)
    mean: float = Field(default=0.0, init=False, repr=False)

    spec: ClassVar[RuleSpec] = RuleSpec(
        "opcm",
        "orthogonal to the running merge, constant norm",
        "Tang et al. (2025)",
        variant="plain sum of singular values; diagonal of true directions alone; norm of the whole adapter",
        ordered=True,
    )

    @property
    def global_pass(self) -> bool:
        """The norm is that of the whole adapter."""
        return True

    def prepared(self, sites: Iterable[Site]) -> Self:
        """Returns the rule with its factor."""
        squares: dict[int, float] = defaultdict(float)
        total = 0.0
        for site in sites:
            total += float(super().core(site).square().sum())
            for place, update in zip(site.places, site.space.parts, strict=True):
                squares[place] += float(update.norm) ** 2
        new = [math.sqrt(square) for place, square in squares.items() if place > 0 or not self.seen]
        mean = (self.seen * self.mean_norm + sum(new)) / (self.seen + len(new))
        ready = dataclasses.replace(self)
        object.__setattr__(ready, "factor", mean / math.sqrt(total) if total > 0 else 1.0)
        object.__setattr__(ready, "mean", mean)
        return ready

    def learned(self) -> dict[str, float]:
        """Returns the factor, and the mean norm of all adapters merged."""
        return {"factor": self.factor, "mean_norm": self.mean}

    def core(self, site: Site) -> Tensor:
        """Returns the merged core."""
        return self.factor * super().core(site)

    def step(self, running: Update, new: Update) -> Update:
        """Returns the running sum and the projected update."""
        shares = running.s.cumsum(0) / running.s.sum()
        n = int((shares <= self.block).sum())
        inside = (running.u.T @ new.u * new.s) @ (new.v.T @ running.v)
        lost = torch.diag(inside.diagonal())
        lost[:n, :n] = inside[:n, :n]
        left = running.u @ (torch.diag(running.s) - lost)
        return combine([(left, running.v.T, 1.0), (new.u * new.s, new.v.T, 1.0)], dtype=running.s.dtype)
