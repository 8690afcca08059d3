"""Consolidate: statistics that will answer together, and how much each counts."""

from __future__ import annotations

from dataclasses import dataclass

from contpeft.adapters import temperatures
from contpeft.spec import Version
from contpeft.strategies.consolidate.gathering import Expert
from contpeft.strategies.context import Context

__all__ = ["Pool"]


@dataclass(frozen=True)
class Pool:
    """Several statistics, with the temperatures at which their product tells the task's rows best.

    A product of probabilities counts twice what two heads know from the same source. So the temperatures are
    fitted together, on the rows of the task at hand, each left out of the statistics that hold it: a
    logarithmic opinion pool (Genest and Zidek 1986, "Combining Probability Distributions"; Heskes
    1998, "Selecting Weighting Factors in Logarithmic Opinion Pools"). No row is held back and none is kept.

    Attributes:
        parts: what gathers the statistics, in their order.
    """

    parts: tuple[Expert, ...]

    def end(self, context: Context, trained: Version | None) -> tuple[Version, ...]:
        """Adds the task to all statistics, weighs them, and registers them."""
        taken = [part.take(context, trained) for part in self.parts]
        weighed = temperatures([each.left_out() for each in taken])
        return tuple(each.register(t) for each, t in zip(taken, weighed, strict=True))
