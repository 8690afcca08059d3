"""Rows of earlier tasks: how they are written, which are kept, and how they are read again."""

from contpeft.strategies.replay.buffer import Buffer, Row
from contpeft.strategies.replay.codec import from_bytes, to_bytes
from contpeft.strategies.replay.drawing import draw, positions, scores_of
from contpeft.strategies.replay.herding import herding_order
from contpeft.strategies.replay.keeping import Bounds, keep_balanced, keep_first, random_ranks
from contpeft.strategies.replay.latent import with_states

__all__ = [
    "Bounds",
    "Buffer",
    "Row",
    "draw",
    "from_bytes",
    "herding_order",
    "keep_balanced",
    "keep_first",
    "positions",
    "random_ranks",
    "scores_of",
    "to_bytes",
    "with_states",
]
