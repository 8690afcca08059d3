"""Statistics of features, gathered in a stream, and the classifiers they give without forgetting.

Every kind sees each task once and keeps no inputs. An entry is a (label, task index) pair; the best entry
names a class, and its task: the same statistics classify and route.
"""

from contpeft.adapters.statistics.class_statistics import RULES, ClassStatistics, Rule
from contpeft.adapters.statistics.drift import Drift
from contpeft.adapters.statistics.gathering import LeftOut
from contpeft.adapters.statistics.head import STATISTICS_RULES, StatisticsHead, check_statistics
from contpeft.adapters.statistics.kept import GATE, NEAREST, KeptFeatures
from contpeft.adapters.statistics.ridge import RIDGE, RidgeStatistics
from contpeft.adapters.statistics.subspaces import SUBSPACES, SubspacePrototypes
from contpeft.adapters.statistics.tokens import TokenStatistics

__all__ = [
    "GATE",
    "NEAREST",
    "RIDGE",
    "RULES",
    "STATISTICS_RULES",
    "SUBSPACES",
    "ClassStatistics",
    "Drift",
    "KeptFeatures",
    "LeftOut",
    "RidgeStatistics",
    "Rule",
    "StatisticsHead",
    "SubspacePrototypes",
    "TokenStatistics",
    "check_statistics",
]
