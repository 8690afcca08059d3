"""What there is to choose from, as rows: recipes, and the parts they are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, dataclass, fields, replace
from typing import Any, Final

from contpeft.spec import SCENARIOS
from contpeft.strategies.about import growth_of, summary_of, told
from contpeft.strategies.reading import PARTS
from contpeft.strategies.recipe import Recipe
from contpeft.strategies.recipes import RECIPES, find_recipe

__all__ = ["PartRow", "RecipeRow", "part_rows", "recipe_row", "recipe_rows"]


@dataclass(frozen=True)
class PartRow:
    """One part.

    Attributes:
        kind: which of the six.
        name: its class.
        what: in one line.
        paper: where it was published.
        growth: what it keeps for every task.
        needs: what it cannot do without.
        options: its fields and their values; of a class, those it has unless told otherwise.
    """

    kind: str
    name: str
    what: str
    paper: str
    growth: str
    needs: tuple[str, ...]
    options: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Returns the row as JSON."""
        return asdict(self)


@dataclass(frozen=True)
class RecipeRow:
    """One recipe.

    Attributes:
        name: its name.
        what: the idea in one line.
        paper: where it was published.
        scenarios: those it can serve.
        growth: what it keeps for every task, for each part that keeps something.
        needs: what it cannot do without.
        joint: whether it learns all tasks at once.
        trains: whether the first task trains anything.
        parts: what it is made of.
    """

    name: str
    what: str
    paper: str
    scenarios: tuple[str, ...]
    growth: tuple[str, ...]
    needs: tuple[str, ...]
    joint: bool
    trains: bool
    parts: tuple[PartRow, ...]

    def to_json(self) -> dict[str, Any]:
        """Returns the row as JSON."""
        return asdict(self)


# What a part of each kind does; options of a part, and parts of other kinds in its fields, do not.
_WORK: Final[Mapping[str, str]] = {
    "init": "start",
    "head": "start",
    "penalty": "loss",
    "projection": "project",
    "consolidate": "end",
    "answers": "route",
}


def recipe_rows() -> list[RecipeRow]:
    """Returns every recipe, in the order of their families."""
    return [recipe_row(name) for name in RECIPES]


def recipe_row(name: str) -> RecipeRow:
    """Returns one recipe.

    Raises:
        NotFoundError: if there is none of that name, naming the nearest.
    """
    recipe: Recipe = find_recipe(name)
    parts = tuple(
        replace(
            _row(kind, type(part), {each.name: _shown(getattr(part, each.name)) for each in fields(part)}),
            growth=growth_of(part),
        )
        for kind, found in recipe.parts().items()
        for part in found
        if hasattr(part, _WORK[kind])
    )
    return RecipeRow(
        name=name,
        what=recipe.what,
        paper=recipe.paper,
        scenarios=tuple(each for each in SCENARIOS if each in recipe.serves),
        growth=tuple(dict.fromkeys(part.growth for part in parts if part.growth)),
        needs=tuple(sorted(recipe.needs())),
        joint=recipe.joint,
        trains=recipe.init.trains(0),
        parts=parts,
    )


def part_rows() -> list[PartRow]:
    """Returns every part, kind by kind."""
    return [
        _row(kind, part, {each.name: _default(each) for each in fields(part) if each.init})
        for kind, parts in PARTS.items()
        for part in parts.values()
    ]


def _row(kind: str, part: type, options: Mapping[str, str]) -> PartRow:
    about = told(part)
    return PartRow(
        kind=kind,
        name=part.__name__,
        what=summary_of(part),
        paper=about.paper,
        growth=about.growth,
        needs=tuple(sorted(about.needs)),
        options=options,
    )


def _default(each: Field[Any]) -> str:
    if each.default is not MISSING:
        return _shown(each.default)
    return _shown(each.default_factory()) if each.default_factory is not MISSING else "required"


def _shown(value: Any) -> str:
    """Returns a value in a few words: a part by its name alone."""
    if isinstance(value, tuple):
        return f"({', '.join(map(_shown, value))})"
    return type(value).__name__ if hasattr(type(value), "__dataclass_fields__") else str(value)
