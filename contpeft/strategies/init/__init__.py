"""Parts: how a task's adapter starts."""

from contpeft.strategies.init.fresh import Fresh
from contpeft.strategies.init.from_last import FromLast
from contpeft.strategies.init.from_merged import FromMerged
from contpeft.strategies.init.no_adapter import HeadOnly, NoAdapter
from contpeft.strategies.init.on_top import OnTop, stack_of
from contpeft.strategies.init.orthonormal import Orthonormal

__all__ = ["Fresh", "FromLast", "FromMerged", "HeadOnly", "NoAdapter", "OnTop", "Orthonormal", "stack_of"]
