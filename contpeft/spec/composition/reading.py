"""From JSON back to the composition it tells."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from contpeft.errors import SpecError, suggest
from contpeft.spec.composition.choices import Parallel, Route, Surest
from contpeft.spec.composition.concat import Concat, Layers, Tokens, View
from contpeft.spec.composition.gated import Gated
from contpeft.spec.composition.mixes import Arrow, Mix
from contpeft.spec.composition.parts import Base, Drop, Fuse, Part, Single, Stack, Sum

__all__ = ["Choices", "Composition", "composition_from_json", "features_from_json"]

Choices = Route | Parallel | Surest | Mix | Arrow
"""Compositions of several heads, one a task."""

Composition = Base | Part | Concat | Choices
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
            "a single version, a sum, a stack, a fusion or gated versions"
        )
    return part


def _single(value: Mapping[str, Any]) -> Single:
    part = _part(value)
    if not isinstance(part, Single):
        raise SpecError(f"{part} cannot be mixed with others row by row; only single versions can")
    return part


def features_from_json(value: Mapping[str, Any]) -> View:
    """Returns what computes features, from JSON: the bare base, what one head answers for, layers, tokens.

    Raises:
        SpecError: if it is something else.
    """
    if value.get("type") == "layers":
        return Layers(_whole(value["of"]), int(value["last"]))
    if value.get("type") == "tokens":
        return Tokens()
    return _whole(value)


def _whole(value: Mapping[str, Any]) -> Base | Part:
    return Base() if value.get("type") == "base" else _part(value)


def _answered(value: Mapping[str, Any]) -> Part | Concat:
    found = composition_from_json(value)
    return found if isinstance(found, Concat) else _part(value)


def _parts(values: list[Mapping[str, Any]]) -> tuple[Part, ...]:
    return tuple(map(_part, values))


_READERS: Final[dict[str, Callable[[Mapping[str, Any]], Composition]]] = {
    "arrow": lambda value: Arrow(tuple(map(_single, value["choices"])), value["top"], value["temperature"]),
    "base": lambda value: Base(),
    "concat": lambda value: Concat(tuple(map(features_from_json, value["parts"])), value["head"]),
    "drop": lambda value: Drop(_part(value["part"]), tuple(value["layers"])),
    "fuse": lambda value: Fuse(
        tuple(each["ref"] for each in value["over"]), value["fusion"], value.get("head")
    ),
    "gated": lambda value: Gated(tuple(each["ref"] for each in value["over"]), value.get("head")),
    "mix": lambda value: Mix(
        value["router"], tuple(map(_single, value["choices"])), value["top"], value["temperature"]
    ),
    "parallel": lambda value: Parallel(tuple(map(_answered, value["choices"])), value.get("by", "mean")),
    "route": lambda value: Route(value["router"], _parts(value["choices"])),
    "single": lambda value: Single(value["ref"], value.get("head")),
    "stack": lambda value: Stack(_parts(value["parts"]), value.get("head")),
    "sum": lambda value: Sum(
        tuple((each["ref"], each["weight"]) for each in value["parts"]), value.get("head")
    ),
    "surest": lambda value: Surest(_parts(value["choices"]), value["by"]),
}
