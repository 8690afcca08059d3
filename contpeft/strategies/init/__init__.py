"""Parts: how a task's adapter starts."""

from contpeft.strategies.init.fresh import Fresh
from contpeft.strategies.init.from_last import FromLast
from contpeft.strategies.init.from_merged import FromMerged
from contpeft.strategies.init.fuse_all import FuseAll
from contpeft.strategies.init.no_adapter import HeadOnly, NoAdapter
from contpeft.strategies.init.on_top import OnTop, stack_of
from contpeft.strategies.init.orthonormal import Orthonormal
from contpeft.strategies.init.pooled import Pooled

__all__ = [
    "Fresh",
    "FromLast",
    "FromMerged",
    "FuseAll",
    "HeadOnly",
    "NoAdapter",
    "OnTop",
    "Orthonormal",
    "Pooled",
    "stack_of",
]
