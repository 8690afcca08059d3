"""Parts: what happens once a task is learnt."""

from contpeft.strategies.consolidate.fill_buffer import FillBuffer
from contpeft.strategies.consolidate.freeze import Freeze
from contpeft.strategies.consolidate.keep_average import KeepAverage
from contpeft.strategies.consolidate.statistics import GatherStatistics
from contpeft.strategies.consolidate.then import Then

__all__ = ["FillBuffer", "Freeze", "GatherStatistics", "KeepAverage", "Then"]
