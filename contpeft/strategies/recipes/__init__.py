"""Named strategies, each a recipe of parts, one file a family."""

from __future__ import annotations

from contpeft.errors import NotFoundError, suggest
from contpeft.strategies.recipe import Recipe
from contpeft.strategies.recipes.anchors import ANCHORS
from contpeft.strategies.recipes.bounds import BOUNDS
from contpeft.strategies.recipes.isolation import ISOLATION
from contpeft.strategies.recipes.penalties import PENALTIES

__all__ = ["ANCHORS", "BOUNDS", "ISOLATION", "PENALTIES", "RECIPES", "find_recipe"]

RECIPES: dict[str, Recipe] = {
    **BOUNDS,
    **ISOLATION,
    **PENALTIES,
    **ANCHORS,
}


def find_recipe(name: str) -> Recipe:
    """Returns the recipe of that name.

    Raises:
        NotFoundError: naming the nearest one.
    """
    if name not in RECIPES:
        raise NotFoundError(f"no strategy {name!r}{suggest(name, RECIPES)}")
    return RECIPES[name]
