"""How the scores of one run are printed and coloured: one scale for all of its tables and pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from contpeft.experiments.report.result import RunResult

__all__ = ["UNDEFINED", "Scale", "scale_of"]

UNDEFINED = "\u2013"
"""What stands for a number that is undefined: an en dash."""


@dataclass(frozen=True)
class Scale:
    """The range and the unit of a run's scores.

    Attributes:
        percent: whether scores are shares, printed in percent with one decimal; others are printed
            in the metric's own unit with three significant digits.
        low: the score at the lower end of colours and axes.
        high: the score at the upper end.
        lower_is_better: whether the better end is the lower one.
    """

    percent: bool
    low: float
    high: float
    lower_is_better: bool

    def shown(self, value: float) -> float:
        """Returns the number that is printed for a score."""
        return 100 * value if self.percent else value

    def text(self, value: float | None, *, signed: bool = False) -> str:
        """Returns a score (or with ``signed`` a difference of scores) as text."""
        if value is None:
            return UNDEFINED
        # Adding 0.0 turns a negative zero, and what rounds to one, into a plain zero.
        shown = round(self.shown(value), 1) + 0.0 if self.percent else self.shown(value) + 0.0
        sign = "+" if signed and shown != 0 else ""
        return f"{shown:{sign}.1f}" if self.percent else f"{shown:{sign}.3g}"

    def goodness(self, value: float) -> float:
        """Returns where a score lies between the worst (0) and the best (1) end of the range."""
        share = min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)
        return 1 - share if self.lower_is_better else share


def scale_of(result: RunResult) -> Scale:
    """Returns the scale of a run.

    Scores between -1 and 1 of which more is better are taken for shares, on the fixed range of 0
    to 100 percent (from the lowest score, where one is negative). Any other metric spans its own
    lowest to its highest score.
    """
    values = list(_scores(result)) or [0.0]
    low, high = min(values), max(values)
    if not result.lower_is_better and low >= -1 and high <= 1:
        return Scale(True, min(0.0, low), 1.0, False)
    return Scale(False, low, high if high > low else low + 1.0, result.lower_is_better)


def _scores(result: RunResult) -> Iterator[float]:
    for way in result.ways:
        for scored in way.protocols.values():
            yield from (value for row in scored.matrix.rows for value in row if value is not None)
