"""Parts: a term added to the loss of every batch."""

from contpeft.strategies.penalty.dark_replay import DarkReplay
from contpeft.strategies.penalty.near_keys import NearKeys
from contpeft.strategies.penalty.orthogonal_components import OrthogonalComponents
from contpeft.strategies.penalty.plus import Plus
from contpeft.strategies.penalty.replay import Replay

__all__ = [
    "DarkReplay",
    "NearKeys",
    "OrthogonalComponents",
    "Plus",
    "Replay",
]
