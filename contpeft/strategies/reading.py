"""Recipes as plain data: a name, a named recipe with parts changed, or six parts by name.

In YAML::

    strategies:
      - o-lora
      - strong: {recipe: o-lora, penalty: {weight: 2.0}}
      - mine: {init: FromLast, head: {part: Cosine, grow: true}, projection: {part: Slow, factor: 0.1}}
      - slow: {recipe: sequential, projection: {part: Slow, factor: {each: [0.01, 0.1]}}}
      - fused: {recipe: fusion-per-task, after: {penalty: null}}

``each`` makes one way of every value: ``slow-0.01`` and ``slow-0.1``. ``after`` is the recipe of a second
stage, as data again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass, replace
from functools import cache
from itertools import product
from types import ModuleType
from typing import Any, Final, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from contpeft.errors import ConfigError, NotFoundError, suggest
from contpeft.spec import check_name
from contpeft.strategies import answers, consolidate, drift, head, init, parts, penalty, projection
from contpeft.strategies.recipe import Recipe
from contpeft.strategies.recipes import find_recipe

__all__ = ["PARTS", "read_recipes"]

_ROOMS: Final[Mapping[str, ModuleType]] = {
    "init": init,
    "head": head,
    "penalty": penalty,
    "projection": projection,
    "consolidate": consolidate,
    "answers": answers,
}
_PART, _RECIPE, _EACH, _AFTER = "part", "recipe", "each", "after"
_OPTIONAL: Final = ("penalty", "projection")


def _classes(room: ModuleType) -> dict[str, type]:
    named = {name: getattr(room, name) for name in room.__all__}
    return {name: each for name, each in named.items() if isinstance(each, type) and is_dataclass(each)}


PARTS: Final[Mapping[str, Mapping[str, type]]] = {kind: _classes(room) for kind, room in _ROOMS.items()}
"""The classes of each kind of part, by name."""

# What parts are made of counts as kinds, too.
_KINDS: Final = {**PARTS, "drift": _classes(drift)}
_INTERFACES: Final[Mapping[Any, str]] = {
    parts.Init: "init",
    parts.Head: "head",
    parts.Penalty: "penalty",
    parts.Projection: "projection",
    parts.Consolidate: "consolidate",
    parts.Answers: "answers",
    drift.Drift: "drift",
}


def read_recipes(value: str | Mapping[str, Any]) -> dict[str, Recipe]:
    """Returns the recipes that one entry of ``strategies`` stands for, by the names of their ways.

    Args:
        value: a name, or one name with what its recipe is made of.

    Raises:
        NotFoundError: if a recipe or part does not exist, naming the nearest.
        ConfigError: if an entry, a field or its value is refused.
    """
    if isinstance(value, str):
        return {value: find_recipe(value)}
    if len(value) != 1 or not isinstance(next(iter(value.values())), Mapping):
        raise ConfigError(
            f"strategies: {dict(value)!r} is neither a name nor one 'name: {{...}}' with the recipe's parts"
        )
    (name, told), *_ = value.items()
    check_name(name, "strategy")
    found: dict[str, Recipe] = {}
    for way, each in _expanded(name, told):
        if check_name(way, "strategy") in found:
            raise ConfigError(f"strategy {name!r}: two ways are called {way!r}; give each value once")
        found[way] = _recipe(way, each)
    return found


def _expanded(name: str, told: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yields one way for each choice of the values that are swept."""
    swept = list(_swept(told, ()))
    for _, values in swept:
        if not isinstance(values, list) or not values:
            raise ConfigError(f"strategy {name!r}: {_EACH} is {values!r}; give a list of values")
    for chosen in product(*(values for _, values in swept)):
        way, each = name, told
        for (path, _), picked in zip(swept, chosen, strict=True):
            way, each = f"{way}-{picked}", _put(each, path, picked)
        yield way, each


def _swept(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if not isinstance(value, Mapping):
        return
    if set(value) == {_EACH}:
        yield path, value[_EACH]
        return
    for key, inner in value.items():
        yield from _swept(inner, (*path, key))


def _put(value: Mapping[str, Any], path: tuple[str, ...], picked: Any) -> Mapping[str, Any]:
    key, *rest = path
    return {**value, key: _put(value[key], tuple(rest), picked) if rest else picked}


def _recipe(way: str, told: Mapping[str, Any], present: Recipe | None = None) -> Recipe:
    """Returns a named recipe, the present one or the plainest, with parts changed."""
    known = [_RECIPE, *_ROOMS, _AFTER]
    unknown = set(told) - {*known}
    if unknown:
        key = sorted(unknown)[0]
        raise ConfigError(f"strategy {way!r} has no part {key!r}{suggest(key, known)}")
    start = find_recipe(_name(way, _RECIPE, told[_RECIPE])) if _RECIPE in told else present or Recipe()
    changes = {kind: _part(way, kind, told[kind], getattr(start, kind)) for kind in _ROOMS if kind in told}
    if _AFTER in told:
        changes[_AFTER] = _second_stage(way, told[_AFTER], start.after)
    return replace(start, **changes)


def _second_stage(way: str, told: Any, present: Recipe | None) -> Recipe | None:
    if told is None:
        return None
    if not isinstance(told, str | Mapping):
        raise ConfigError(f"strategy {way!r}: {_AFTER} is {told!r}; name a recipe, or give its parts")
    found = find_recipe(told) if isinstance(told, str) else _recipe(way, told, present)
    if found.joint:
        raise ConfigError(
            f"strategy {way!r}: {_AFTER} learns all tasks at once; a second stage is of one task"
        )
    return found


def _part(way: str, kind: str, told: Any, present: Any) -> Any:
    """Returns a part: another one where it is named, else the present one with fields changed."""
    if told is None and kind in _OPTIONAL:
        return None
    if isinstance(told, str):
        return _made(way, kind, _named(kind, told), {}, {})
    if told is None:
        raise ConfigError(
            f"strategy {way!r}: {kind} is None; a recipe can do without {' and '.join(_OPTIONAL)} alone"
        )
    if not isinstance(told, Mapping):
        raise ConfigError(f"strategy {way!r}: {kind} is {told!r}; name a part, or give its fields")
    given = {key: value for key, value in told.items() if key != _PART}
    if _PART in told:
        made = _named(kind, _name(way, _PART, told[_PART]))
        return _made(way, kind, made, given, {})
    if present is None:
        raise ConfigError(f"strategy {way!r} has no {kind} to change; say which: {kind}: {{part: NAME, ...}}")
    own = {each.name: getattr(present, each.name) for each in fields(present)}
    return _made(way, kind, type(present), given, own)


def _name(way: str, key: str, told: Any) -> str:
    if not isinstance(told, str):
        raise ConfigError(f"strategy {way!r}: {key} is {told!r}; give one name")
    return told


def _named(kind: str, name: str) -> type:
    if name not in _KINDS[kind]:
        raise NotFoundError(f"no {kind} part {name!r}{suggest(name, _KINDS[kind], limit=40)}")
    return _KINDS[kind][name]


def _made(way: str, kind: str, made: type, given: dict[str, Any], present: dict[str, Any]) -> Any:
    hints = _hints(made)
    for key in given:
        if key not in hints:
            raise ConfigError(f"strategy {way!r}: {made.__name__} has no field {key!r}{suggest(key, hints)}")
    lacking = [each.name for each in fields(made) if _required(each) and each.name not in present | given]
    if lacking:
        said = ", ".join(f"{name}: ..." for name in lacking)
        raise ConfigError(
            f"strategy {way!r}: {made.__name__} needs {', '.join(lacking)}; "
            f"say it: {kind}: {{part: {made.__name__}, {said}}}"
        )
    read = {
        key: _field(way, kind, f"{made.__name__}.{key}", value, hints[key], present.get(key))
        for key, value in given.items()
    }
    return made(**{**present, **read})


def _required(each: Field[Any]) -> bool:
    return each.default is MISSING and each.default_factory is MISSING


def _field(way: str, kind: str, where: str, value: Any, hint: Any, present: Any) -> Any:
    """Returns the value of a part's field, which may be parts in turn, of this kind or another."""
    kind = _kind_in(hint, kind)
    if _names_part(value):
        return _part(way, kind, value, None)
    if isinstance(value, Mapping) and type(present) in _KINDS[kind].values():
        return _part(way, kind, value, present)
    if isinstance(value, list) and any(map(_names_part, value)):
        return tuple(_field(way, kind, where, each, hint, None) for each in value)
    return _plain(way, where, value, hint)


def _kind_in(hint: Any, outer: str) -> str:
    """Returns the kind of the parts that a field of a type holds; that of the part around it if of none."""
    for each in filter(lambda each: isinstance(each, type), (hint, *get_args(hint))):
        if each in _INTERFACES:
            return _INTERFACES[each]
        for kind, classes in _KINDS.items():
            if each in classes.values():
                return kind
    return outer


def _plain(way: str, where: str, value: Any, hint: Any) -> Any:
    try:
        return TypeAdapter(hint).validate_python(value)
    except ValidationError as error:
        told = error.errors()[0]["msg"]
        raise ConfigError(f"strategy {way!r}: {where} refuses {value!r}: {told}") from error
    except PydanticSchemaGenerationError as error:  # of an interface there are no plain values
        raise ConfigError(
            f"strategy {way!r}: {where} holds parts, not {value!r}; give each as {{part: NAME}}"
        ) from error


def _names_part(value: Any) -> bool:
    return isinstance(value, Mapping) and _PART in value


@cache
def _hints(made: type) -> dict[str, Any]:
    """Returns the types of a part's fields."""
    hints = get_type_hints(made)
    return {each.name: hints[each.name] for each in fields(made) if each.init}
