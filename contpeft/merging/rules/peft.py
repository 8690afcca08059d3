"""What PEFT's ``add_weighted_adapter`` makes of factors, for those who must compare with it.

Both work on ``A`` and ``B`` apart. The product of sums has all cross terms ``B_i A_j``, so that the result
is not the sum of the updates, nor near it: for two independent adapters the error is as large as the sum.
And it depends on how each update happens to be split into factors. Use ``sum`` and ``ties``.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from contpeft.errors import SpecError
from contpeft.merging.rules.base import STRICT, Rule, RuleSpec, Share
from contpeft.merging.rules.entries import largest
from contpeft.merging.site import Site
from contpeft.merging.update import Update, canonical

__all__ = ["PeftLinear", "PeftTies"]

_WRONG = "not the sum: cross terms B_i A_j; depends on how updates are split into factors"


@dataclass(frozen=True, config=STRICT)
class PeftLinear(Rule):
    """``(sum_i c_i B_i) (sum_i |c_i| A_i)`` with ``c_i`` the signed root of weight times scaling."""

    spec: ClassVar[RuleSpec] = RuleSpec(
        "peft-linear", "PEFT's 'linear', for comparison", "PEFT 0.21", variant=_WRONG, gauge_free=False
    )

    def merge(self, site: Site) -> Update:
        """Returns the product of the summed factors."""
        b, a = _factors(site, self.spec.name)
        return canonical(b.sum(0), a.sum(0), dtype=site.dtype)


@dataclass(frozen=True, config=STRICT)
class PeftTies(Rule):
    """TIES on ``A`` and on ``B``, each by itself.

    Attributes:
        density: share of each factor's entries that survives trimming.
        vote: whether a sign is elected by the sum of entries or by their number.
    """

    density: Share = 0.2
    vote: Literal["total", "frequency"] = "total"

    spec: ClassVar[RuleSpec] = RuleSpec(
        "peft-ties",
        "PEFT's 'ties', for comparison",
        "PEFT 0.21",
        variant=_WRONG,
        keeps_one=False,
        gauge_free=False,
    )

    def merge(self, site: Site) -> Update:
        """Returns the product of the merged factors."""
        b, a = _factors(site, self.spec.name, weighted=False)
        roots = torch.tensor(_roots(site), dtype=site.dtype)
        return canonical(self._merged(b, roots), self._merged(a, roots.abs()), dtype=site.dtype)

    def _merged(self, stack: Tensor, roots: Tensor) -> Tensor:
        trimmed = stack * largest(stack, self.density)
        votes = trimmed if self.vote == "total" else trimmed.sign()
        sign = torch.where(votes.sum(0) >= 0, 1.0, -1.0).to(stack.dtype)
        agreeing = trimmed.sign() == sign
        total = (trimmed * agreeing * roots[:, None, None]).sum(0)
        return total / agreeing.sum(0).clamp_min(1)


def _factors(site: Site, rule: str, *, weighted: bool = True) -> tuple[Tensor, Tensor]:
    """Returns left factors ``(k, d_out, r)`` and right ones ``(k, r, d_in)``."""
    ranks = sorted({b.shape[1] for b, _, _ in site.terms})
    if len(ranks) > 1:
        raise SpecError(
            f"rule {rule!r} needs equal ranks, {site.module!r} has {', '.join(map(str, ranks))}; use 'sum'"
        )
    roots = _roots(site) if weighted else [1.0] * len(site.terms)
    pairs = list(zip(site.terms, roots, strict=True))
    b = torch.stack([b.to(site.dtype) * root for (b, _, _), root in pairs])
    a = torch.stack([a.to(site.dtype) * abs(root) for (_, a, _), root in pairs])
    return b, a


def _roots(site: Site) -> list[float]:
    """Returns the signed root of each weight times scaling."""
    products = [scale * weight for (_, _, scale), weight in zip(site.terms, site.weights, strict=True)]
    return [(1.0 if value > 0 else -1.0) * abs(value) ** 0.5 for value in products]
