"""Parts: what happens once a task is learnt."""

from contpeft.strategies.consolidate.accumulate import AccumulateUpdates
from contpeft.strategies.consolidate.fisher import Fisher
from contpeft.strategies.consolidate.freeze import Freeze
from contpeft.strategies.consolidate.measure_overlap import MeasureOverlap
from contpeft.strategies.consolidate.output_sensitivity import OutputSensitivity
from contpeft.strategies.consolidate.path_integral import PathIntegral
from contpeft.strategies.consolidate.statistics import GatherStatistics
from contpeft.strategies.consolidate.then import Then

__all__ = [
    "AccumulateUpdates",
    "Fisher",
    "Freeze",
    "GatherStatistics",
    "MeasureOverlap",
    "OutputSensitivity",
    "PathIntegral",
    "Then",
]
