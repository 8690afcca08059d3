"""Parts: how a task's classifier head starts."""

from contpeft.strategies.head.cosine import Cosine
from contpeft.strategies.head.linear import Linear
from contpeft.strategies.head.own import Own

__all__ = ["Cosine", "Linear", "Own"]
