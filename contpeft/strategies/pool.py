"""The pool of prompts at hand, for parts that work on one."""

from __future__ import annotations

from contpeft.adapters.pools import PoolAttachment
from contpeft.errors import UnsupportedError
from contpeft.strategies.context import Context

__all__ = ["pool_of"]


def pool_of(context: Context, part: str) -> PoolAttachment:
    """Returns the pool that is attached.

    Raises:
        UnsupportedError: if there is none, naming the part that asks.
    """
    attached = context.adapted.attachment
    if not isinstance(attached, PoolAttachment):
        there = "nothing" if attached is None else f"an adapter of method {attached.kind!r}"
        raise UnsupportedError(
            f"{part} works on pools of prompts, {there} is attached; give init=Pooled(...)"
        )
    return attached
