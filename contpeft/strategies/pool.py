"""The pool of prompts at hand, for parts that work on one."""

from __future__ import annotations

from contpeft.adapters.pools import PoolAttachment
from contpeft.strategies.context import Context

__all__ = ["pool_of"]


def pool_of(context: Context, part: str) -> PoolAttachment:
    """Returns the pool that is attached.

    Raises:
        UnsupportedError: if there is none, naming the part that asks.
    """
    return context.attached(PoolAttachment, part, "pools of prompts", "Pooled")
