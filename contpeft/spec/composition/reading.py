"""From JSON back to the composition it tells."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from contpeft.errors import SpecError, suggest
from contpeft.spec.composition.choices import Parallel, Route
from contpeft.spec.composition.parts import Base, Drop, Fuse, Part, Single, Stack, Sum

__all__ = ["Composition", "composition_from_json"]

Composition = Base | Part | Route | Parallel
"""How versions answer together."""


def composition_from_json(value: Mapping[str, Any]) -> Composition:
    """Returns the composition its ``to_json`` wrote.

    Raises:
        SpecError: if the type is unknown, or something is inside another that cannot be.
    """
    kind = str(value.get("type"))
    if kind not in _READERS:
        raise SpecError(f"no composition of type {kind!r}{suggest(kind, _READERS)}")
    return _READERS[kind](value)


def _part(value: Mapping[str, Any]) -> Part:
    part = composition_from_json(value)
    if not isinstance(part, Part):
        raise SpecError(
            f"{part} cannot be inside another composition; only what one head answers for can: "
            "a single version, a sum, a stack or a fusion"
        )
    return part


def _parts(values: list[Mapping[str, Any]]) -> tuple[Part, ...]:
    return tuple(map(_part, values))


_READERS: Final[dict[str, Callable[[Mapping[str, Any]], Composition]]] = {
    "base": lambda value: Base(),
    "drop": lambda value: Drop(_part(value["part"]), tuple(value["layers"])),
    "fuse": lambda value: Fuse(
        tuple(each["ref"] for each in value["over"]), value["fusion"], value.get("head")
    ),
    "parallel": lambda value: Parallel(_parts(value["choices"]), value.get("by", "mean")),
    "route": lambda value: Route(value["router"], _parts(value["choices"])),
    "single": lambda value: Single(value["ref"], value.get("head")),
    "stack": lambda value: Stack(_parts(value["parts"]), value.get("head")),
    "sum": lambda value: Sum(
        tuple((each["ref"], each["weight"]) for each in value["parts"]), value.get("head")
    ),
}
