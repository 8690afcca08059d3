"""TIES-Merging."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from contpeft.errors import SpecError
from contpeft.merging.rules.base import STRICT, Entrywise, RuleSpec, Share, Space
from contpeft.merging.rules.entries import Divide, largest, merge_agreeing
from contpeft.merging.site import Site

__all__ = ["Knots", "Ties"]


@dataclass(frozen=True, config=STRICT)
class Ties(Entrywise):
    """Trim what is small, elect a sign for each entry, average what agrees (Yadav et al., 2023, section 4).

    Attributes:
        density: share of each adapter's entries that survives trimming; the paper's is 0.2.
        trim: whether the largest entries are those of a module, or of the whole adapter as in the paper.
        divide: what the sum of the agreeing entries is divided by; the paper's is their number.
        scale: one factor for the result.
        space: the coordinates.
    """

    density: Share = 0.2
    trim: Literal["module", "global"] = "module"
    divide: Divide = "count"
    scale: float = 1.0
    space: Space = "core"
    thresholds: Mapping[int, float] = Field(default_factory=dict, init=False, repr=False)

    spec: ClassVar[RuleSpec] = RuleSpec(
        "ties",
        "trim, elect signs, mean of agreeing",
        "Yadav et al. (2023)",
        variant="weights before election; equal magnitudes: lowest index; elected sum 0: +1",
        keeps_one=False,
    )

    @property
    def global_pass(self) -> bool:
        """Thresholds over whole adapters need all modules."""
        return self.trim == "global"

    def prepared(self, sites: Iterable[Site]) -> Self:
        """Returns the rule with each adapter's threshold."""
        if self.space == "delta":
            raise SpecError("rule 'ties' trims over the whole adapter in space 'core' or 'knots' alone")
        found: dict[int, list[Tensor]] = defaultdict(list)
        for site in sites:
            core = site.space
            stack = core.cores if self.space == "core" else core.cores @ core.v.T
            for place, entries in zip(site.places, stack, strict=True):
                found[place].append(entries.abs().flatten())
        ready = dataclasses.replace(self)
        thresholds = {place: _threshold(torch.cat(parts), self.density) for place, parts in found.items()}
        object.__setattr__(ready, "thresholds", thresholds)
        return ready

    def entries(self, stack: Tensor, site: Site) -> Tensor:
        """Returns the merged entries."""
        if self.trim == "global":
            limits = stack.new_tensor([self.thresholds[place] for place in site.places])
            kept = stack.abs() >= limits[:, None, None]
        else:
            kept = largest(stack, self.density)
        return self.scale * merge_agreeing(stack * kept, site.weights, self.divide)


@dataclass(frozen=True, config=STRICT)
class Knots(Ties):
    """TIES on the rows of the updates in one shared output basis (Stoica et al., 2025, section 4)."""

    trim: Literal["module", "global"] = "global"
    space: Space = "knots"

    spec: ClassVar[RuleSpec] = RuleSpec(
        "knots",
        "TIES in a shared output basis",
        "Stoica et al. (2025)",
        variant=Ties.spec.variant + "; alpha / r folded in; directions without extent cut off",
        keeps_one=False,
    )


def _threshold(magnitudes: Tensor, density: float) -> float:
    """Returns the smallest magnitude that survives; all that are equal to it do."""
    kept = max(1, int(density * magnitudes.numel()))
    return float(magnitudes.kthvalue(magnitudes.numel() - kept + 1).values)
