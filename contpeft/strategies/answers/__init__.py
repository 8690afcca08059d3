"""Parts: which compositions answer after a task."""

from contpeft.strategies.answers.averaged import Averaged, WithAverage
from contpeft.strategies.answers.by_statistics import ByStatistics, RouteByStatistics
from contpeft.strategies.answers.latest import Latest, Stacked

__all__ = ["Averaged", "ByStatistics", "Latest", "RouteByStatistics", "Stacked", "WithAverage"]
