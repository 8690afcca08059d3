"""Parts: what happens once a task is learnt."""

from contpeft.strategies.consolidate.alignment import AlignClassifier
from contpeft.strategies.consolidate.freeze import Freeze
from contpeft.strategies.consolidate.kept_features import KeepFeatures
from contpeft.strategies.consolidate.ridge import GatherRidge
from contpeft.strategies.consolidate.statistics import GatherStatistics
from contpeft.strategies.consolidate.subspaces import GatherSubspaces
from contpeft.strategies.consolidate.then import Then
from contpeft.strategies.consolidate.thresholds import KeepThresholds

__all__ = [
    "AlignClassifier",
    "Freeze",
    "GatherRidge",
    "GatherStatistics",
    "GatherSubspaces",
    "KeepFeatures",
    "KeepThresholds",
    "Then",
]
