"""Parts: what happens once a task is learnt."""

from contpeft.strategies.consolidate.accumulate import AccumulateUpdates
from contpeft.strategies.consolidate.alignment import AlignClassifier
from contpeft.strategies.consolidate.best_merge import BestMerge
from contpeft.strategies.consolidate.fill_buffer import FillBuffer
from contpeft.strategies.consolidate.fisher import Fisher
from contpeft.strategies.consolidate.followed import FollowStatistics
from contpeft.strategies.consolidate.freeze import Freeze
from contpeft.strategies.consolidate.keep_average import KeepAverage
from contpeft.strategies.consolidate.keep_routing import KeepRouting
from contpeft.strategies.consolidate.keep_rows import KeepRows
from contpeft.strategies.consolidate.kept_features import KeepFeatures
from contpeft.strategies.consolidate.measure_overlap import MeasureOverlap
from contpeft.strategies.consolidate.merge_after import MergeAfter
from contpeft.strategies.consolidate.merge_ema import MergeEma
from contpeft.strategies.consolidate.merge_factors import MergeFactors
from contpeft.strategies.consolidate.merge_on import MergeOn
from contpeft.strategies.consolidate.output_sensitivity import OutputSensitivity
from contpeft.strategies.consolidate.path_integral import PathIntegral
from contpeft.strategies.consolidate.protect_gate import ProtectGate
from contpeft.strategies.consolidate.protect_inputs import ProtectInputs
from contpeft.strategies.consolidate.repair_merge import RepairMerge
from contpeft.strategies.consolidate.ridge import GatherRidge
from contpeft.strategies.consolidate.statistics import GatherStatistics
from contpeft.strategies.consolidate.subspaces import GatherSubspaces
from contpeft.strategies.consolidate.then import Then
from contpeft.strategies.consolidate.thresholds import KeepThresholds
from contpeft.strategies.consolidate.tokens import GatherTokens
from contpeft.strategies.consolidate.weigh_together import WeighTogether

__all__ = [
    "AccumulateUpdates",
    "AlignClassifier",
    "BestMerge",
    "FillBuffer",
    "Fisher",
    "FollowStatistics",
    "Freeze",
    "GatherRidge",
    "GatherStatistics",
    "GatherSubspaces",
    "GatherTokens",
    "KeepAverage",
    "KeepFeatures",
    "KeepRouting",
    "KeepRows",
    "KeepThresholds",
    "MeasureOverlap",
    "MergeAfter",
    "MergeEma",
    "MergeFactors",
    "MergeOn",
    "OutputSensitivity",
    "PathIntegral",
    "ProtectGate",
    "ProtectInputs",
    "RepairMerge",
    "Then",
    "WeighTogether",
]
