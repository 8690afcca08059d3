"""Whose features class statistics stand over: told as a name in a recipe, as compositions in a version."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, Literal

from contpeft.adapters import StatisticsHead
from contpeft.errors import SpecError
from contpeft.spec import (
    Base,
    Concat,
    Drop,
    Layers,
    Part,
    Single,
    Tokens,
    Version,
    View,
    features_from_json,
)

__all__ = ["OVER", "Over", "answering", "features_of", "read_by", "sources", "told_json"]

Over = Literal["base", "first", "first+base", "last", "last+base"]
OVER: Final[tuple[Over, ...]] = ("base", "first", "first+base", "last", "last+base")
"""The bare base, the first or the last task's adapter, or one of them beside the base."""


def sources(over: Over, adapters: Sequence[Version], layers: int = 1) -> tuple[View, ...]:
    """Returns what computes the features statistics are gathered of.

    Args:
        over: whose features.
        adapters: what the way has trained, oldest first.
        layers: of how many layers, from the top.

    Raises:
        SpecError: if there is no such adapter.
    """
    found = _whole(over, adapters)
    return found if layers == 1 else tuple(Layers(each, layers) for each in found)


def _whole(over: Over, adapters: Sequence[Version]) -> tuple[Base | Part, ...]:
    if over == "base":
        return (Base(),)
    if not adapters:
        raise SpecError(f"statistics over {over!r} need a task's adapter, and none was trained")
    which, _, base = over.partition("+")
    adapter = Single(adapters[0 if which == "first" else -1].ref)
    return (adapter, Base()) if base else (adapter,)


def answering(version: Version) -> Part | Concat:
    """Returns what answers with stored statistics: the features they stand over, and they as head."""
    told = version.head.options.get("over", ()) if version.head else ()
    parts = tuple(map(features_from_json, told))
    if not parts:
        return Single(version.ref)
    if len(parts) == 1 and not isinstance(parts[0], Base | Drop | Layers | Tokens):
        return replace(parts[0], head=version.ref)
    return Concat(parts, version.ref)


def features_of(what: Part | Concat) -> tuple[View, ...]:
    """Returns the compositions whose features the head of ``what`` reads."""
    if isinstance(what, Concat):
        return what.parts
    if isinstance(what, Single) and what.head is None:
        return (Base(),)
    return (what,) if isinstance(what, Drop) else (replace(what, head=None),)


def read_by(head: StatisticsHead) -> tuple[View, ...]:
    """Returns the compositions whose features stored statistics are of."""
    return tuple(map(features_from_json, head.over)) or (Base(),)


def told_json(parts: Sequence[View]) -> list[dict[str, Any]]:
    """Returns compositions as statistics name them; the bare base alone is not named."""
    return [] if tuple(parts) == (Base(),) else [part.to_json() for part in parts]
