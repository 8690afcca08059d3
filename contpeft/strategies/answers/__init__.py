"""Parts: which compositions answer after a task."""

from contpeft.strategies.answers.averaged import Averaged, WithAverage
from contpeft.strategies.answers.by_statistics import (
    ByStatistics,
    Classify,
    ClassifyTogether,
    RouteByStatistics,
)
from contpeft.strategies.answers.by_task import ByTask
from contpeft.strategies.answers.gated_together import GatedTogether
from contpeft.strategies.answers.latest import Latest, Stacked
from contpeft.strategies.answers.merged import Merged
from contpeft.strategies.answers.mixtures import MixByArrow, MixByStatistics, TheSurest
from contpeft.strategies.answers.stages import BeforeAndAfter

__all__ = [
    "Averaged",
    "BeforeAndAfter",
    "ByStatistics",
    "ByTask",
    "Classify",
    "ClassifyTogether",
    "GatedTogether",
    "Latest",
    "Merged",
    "MixByArrow",
    "MixByStatistics",
    "RouteByStatistics",
    "Stacked",
    "TheSurest",
    "WithAverage",
]
