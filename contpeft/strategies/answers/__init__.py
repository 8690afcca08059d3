"""Parts: which compositions answer after a task."""

from contpeft.strategies.answers.averaged import Averaged, WithAverage
from contpeft.strategies.answers.by_statistics import ByStatistics, RouteByStatistics
from contpeft.strategies.answers.by_task import ByTask
from contpeft.strategies.answers.latest import Latest, Stacked
from contpeft.strategies.answers.merged import Merged

__all__ = [
    "Averaged",
    "ByStatistics",
    "ByTask",
    "Latest",
    "Merged",
    "RouteByStatistics",
    "Stacked",
    "WithAverage",
]
