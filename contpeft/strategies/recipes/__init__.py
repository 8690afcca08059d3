"""Named strategies, each a recipe of parts, one file a family."""

from __future__ import annotations

from contpeft.errors import NotFoundError, suggest
from contpeft.strategies.recipe import Recipe
from contpeft.strategies.recipes.alignment import ALIGNMENT
from contpeft.strategies.recipes.anchors import ANCHORS
from contpeft.strategies.recipes.averages import AVERAGES
from contpeft.strategies.recipes.bounds import BOUNDS
from contpeft.strategies.recipes.class_statistics import CLASS_STATISTICS
from contpeft.strategies.recipes.drift import DRIFT
from contpeft.strategies.recipes.fusion import FUSIONS
from contpeft.strategies.recipes.gating import GATING
from contpeft.strategies.recipes.isolation import ISOLATION
from contpeft.strategies.recipes.merging import MERGING
from contpeft.strategies.recipes.penalties import PENALTIES
from contpeft.strategies.recipes.prompts import PROMPTS
from contpeft.strategies.recipes.replay import REPLAY
from contpeft.strategies.recipes.subspaces import SUBSPACES

__all__ = [
    "ALIGNMENT",
    "ANCHORS",
    "AVERAGES",
    "BOUNDS",
    "CLASS_STATISTICS",
    "DRIFT",
    "FAMILIES",
    "FUSIONS",
    "GATING",
    "ISOLATION",
    "MERGING",
    "PENALTIES",
    "PROMPTS",
    "RECIPES",
    "REPLAY",
    "SUBSPACES",
    "find_recipe",
]

FAMILIES: dict[str, dict[str, Recipe]] = {
    "bounds": BOUNDS,
    "isolation": ISOLATION,
    "class-statistics": CLASS_STATISTICS,
    "alignment": ALIGNMENT,
    "drift": DRIFT,
    "merging": MERGING,
    "penalties": PENALTIES,
    "anchors": ANCHORS,
    "subspaces": SUBSPACES,
    "replay": REPLAY,
    "averages": AVERAGES,
    "prompts": PROMPTS,
    "fusion": FUSIONS,
    "gating": GATING,
}
"""The recipes by what they have in common."""

RECIPES: dict[str, Recipe] = {name: recipe for family in FAMILIES.values() for name, recipe in family.items()}


def find_recipe(name: str) -> Recipe:
    """Returns the recipe of that name.

    Raises:
        NotFoundError: naming the nearest one.
    """
    if name not in RECIPES:
        raise NotFoundError(f"no strategy {name!r}{suggest(name, RECIPES)}")
    return RECIPES[name]
