"""Parts: a correction of the update the optimizer has just applied."""

from contpeft.strategies.init.orthogonal_subspace import OrthogonalSubspace
from contpeft.strategies.projection.calibrate import Calibrate
from contpeft.strategies.projection.each import Each
from contpeft.strategies.projection.follow import Follow
from contpeft.strategies.projection.project_gate import ProjectGate
from contpeft.strategies.projection.project_update import ProjectUpdate
from contpeft.strategies.projection.slow import Slow
from contpeft.strategies.projection.sum_path import SumPath

__all__ = [
    "Calibrate",
    "Each",
    "Follow",
    "OrthogonalSubspace",
    "ProjectGate",
    "ProjectUpdate",
    "Slow",
    "SumPath",
]
