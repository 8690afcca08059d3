"""Which adapters are mixed at a site of a fusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

__all__ = ["Kept", "chosen"]

Item = TypeVar("Item")

Kept = Mapping[str, Sequence[int]]
"""The places, among the members, of those that are mixed at each site, by the path of the site."""


def chosen(items: Sequence[Item], kept: Kept | None, path: str) -> list[Item]:
    """Returns those of ``items`` that are mixed at a site; all if nothing was pruned.

    Args:
        items: one a member.
        kept: which are mixed where; None if nothing was pruned.
        path: of the site.
    """
    return list(items) if kept is None else [items[place] for place in kept[path]]
