"""Parts: which compositions answer after a task."""

from contpeft.strategies.answers.by_statistics import ByStatistics, Classify, RouteByStatistics
from contpeft.strategies.answers.latest import Latest, Stacked
from contpeft.strategies.answers.mixtures import MixByArrow, MixByStatistics, TheSurest
from contpeft.strategies.answers.stages import BeforeAndAfter

__all__ = [
    "BeforeAndAfter",
    "ByStatistics",
    "Classify",
    "Latest",
    "MixByArrow",
    "MixByStatistics",
    "RouteByStatistics",
    "Stacked",
    "TheSurest",
]
