"""Parts: a correction of the update the optimizer has just applied."""

from contpeft.strategies.projection.each import Each
from contpeft.strategies.projection.slow import Slow
from contpeft.strategies.projection.sum_path import SumPath

__all__ = ["Each", "Slow", "SumPath"]
