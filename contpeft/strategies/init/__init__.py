"""Parts: how a task's adapter starts."""

from contpeft.strategies.init.directions import ScaledDirections
from contpeft.strategies.init.fresh import Fresh
from contpeft.strategies.init.from_last import FromLast
from contpeft.strategies.init.no_adapter import HeadOnly, NoAdapter
from contpeft.strategies.init.on_top import OnTop, stack_of

__all__ = ["Fresh", "FromLast", "HeadOnly", "NoAdapter", "OnTop", "ScaledDirections", "stack_of"]
