"""Sums of updates with fixed coefficients."""

from __future__ import annotations

from typing import ClassVar

from pydantic.dataclasses import dataclass

from contpeft.errors import SpecError
from contpeft.merging.rules.base import STRICT, Linear, RuleSpec
from contpeft.merging.site import Site

__all__ = ["Average", "Sum", "TaskArithmetic"]


@dataclass(frozen=True, config=STRICT)
class Sum(Linear):
    """``sum_i w_i D_i``: what all adapters change, added up."""

    spec: ClassVar[RuleSpec] = RuleSpec("sum", "weighted sum", "Hu et al. (2022), section 4")

    def coefficients(self, site: Site) -> list[float]:
        """Returns the weights."""
        return list(site.weights)


@dataclass(frozen=True, config=STRICT)
class TaskArithmetic(Linear):
    """``scale * sum_i w_i D_i``; a negative weight unlearns a task.

    Attributes:
        scale: one factor for all; the paper picks it on held-out data, 0.3 to 0.4 for eight tasks.
    """

    scale: float = 0.4

    spec: ClassVar[RuleSpec] = RuleSpec(
        "task-arithmetic", "scaled sum, negative weights unlearn", "Ilharco et al. (2023)", keeps_one=False
    )

    def coefficients(self, site: Site) -> list[float]:
        """Returns the scaled weights."""
        return [self.scale * weight for weight in site.weights]


@dataclass(frozen=True, config=STRICT)
class Average(Linear):
    """``sum_i w_i D_i / sum_i w_i``, over all adapters, those that leave the module alone counted as zero."""

    spec: ClassVar[RuleSpec] = RuleSpec(
        "average",
        "weighted mean",
        "Wortsman et al. (2022)",
        variant="divided by all weights, those of adapters without the module too",
    )

    def coefficients(self, site: Site) -> list[float]:
        """Returns the weights as shares of all weights."""
        if site.total == 0:
            raise SpecError("the weights of a mean add up to 0; choose others, or the rule 'sum'")
        return [weight / site.total for weight in site.weights]
