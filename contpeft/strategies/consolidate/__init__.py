"""Parts: what happens once a task is learnt."""

from contpeft.strategies.consolidate.followed import FollowStatistics
from contpeft.strategies.consolidate.freeze import Freeze
from contpeft.strategies.consolidate.kept_features import KeepFeatures
from contpeft.strategies.consolidate.ridge import GatherRidge
from contpeft.strategies.consolidate.statistics import GatherStatistics
from contpeft.strategies.consolidate.then import Then

__all__ = ["FollowStatistics", "Freeze", "GatherRidge", "GatherStatistics", "KeepFeatures", "Then"]
