"""Parts: how a task's adapter starts."""

from contpeft.strategies.init.designed_subspace import DesignedSubspace
from contpeft.strategies.init.directions import ScaledDirections
from contpeft.strategies.init.first_task import FirstTask
from contpeft.strategies.init.fresh import Fresh
from contpeft.strategies.init.from_copy import FromCopy
from contpeft.strategies.init.from_last import FromLast
from contpeft.strategies.init.from_merged import FromMerged
from contpeft.strategies.init.fuse_all import FuseAll
from contpeft.strategies.init.no_adapter import HeadOnly, NoAdapter
from contpeft.strategies.init.off_protected import OffProtected
from contpeft.strategies.init.on_top import OnTop, stack_of
from contpeft.strategies.init.orthogonal_subspace import OrthogonalSubspace
from contpeft.strategies.init.orthonormal import Orthonormal
from contpeft.strategies.init.pooled import Pooled
from contpeft.strategies.init.residual_gradient import ResidualGradient
from contpeft.strategies.init.shared_factors import SharedFactors
from contpeft.strategies.init.with_gate import WithGate

__all__ = [
    "DesignedSubspace",
    "FirstTask",
    "Fresh",
    "FromCopy",
    "FromLast",
    "FromMerged",
    "FuseAll",
    "HeadOnly",
    "NoAdapter",
    "OffProtected",
    "OnTop",
    "OrthogonalSubspace",
    "Orthonormal",
    "Pooled",
    "ResidualGradient",
    "ScaledDirections",
    "SharedFactors",
    "WithGate",
    "stack_of",
]
