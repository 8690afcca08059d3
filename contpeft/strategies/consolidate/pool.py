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
    """Several statistics, with the temperatures at which their product tells the rows of the tasks best.

    A product of probabilities counts twice what two heads know from the same source. So the temperatures are
    fitted together, on the rows of the task at hand, each left out of the statistics that hold it: a
    logarithmic opinion pool (Genest and Zidek 1986, "Combining Probability Distributions"; Heskes 1998,
    "Selecting Weighting Factors in Logarithmic Opinion Pools"). No row is held back and none is kept.

    The rows of one task may leave little to tell the heads apart, so their weights, the inverse temperatures,
    are averaged over the tasks: the ``t``-th counts ``t`` times, because it is told from all before it.

    Attributes:
        parts: what gathers the statistics, in their order.
    """

    parts: tuple[Expert, ...]

    def end(self, context: Context, trained: Version | None) -> tuple[Version, ...]:
        """Adds the task to all statistics, weighs them, and registers them."""
        taken = [part.take(context, trained) for part in self.parts]
        fitted = temperatures([each.left_out() for each in taken])
        share = 2 / (context.step + 2)
        return tuple(
            each.register(now if each.before is None else 1 / (share / now + (1 - share) / each.before))
            for each, now in zip(taken, fitted, strict=True)
        )
