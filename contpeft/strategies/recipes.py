"""Named strategies, each a recipe of parts."""

from __future__ import annotations

from dataclasses import replace

from contpeft.errors import NotFoundError, suggest
from contpeft.strategies.answers import ByStatistics, RouteByStatistics, Stacked
from contpeft.strategies.consolidate import GatherStatistics
from contpeft.strategies.head import Cosine, Linear
from contpeft.strategies.init import Fresh, FromLast, NoAdapter, OnTop
from contpeft.strategies.recipe import Recipe

__all__ = ["RECIPES", "find_recipe"]

FROZEN = Recipe(
    init=NoAdapter(), consolidate=GatherStatistics(rules=("class-means", "lda")), answers=ByStatistics()
)
"""No adapter: class means and streaming LDA on the frozen features. The bound to beat."""

SEQUENTIAL = Recipe(init=FromLast(), head=Cosine(grow=True))
"""One adapter trained on and on with one growing head: what forgets."""

ISOLATED = Recipe(
    init=Fresh(),
    head=Cosine(),
    consolidate=GatherStatistics(rules=("lda",)),
    answers=RouteByStatistics("lda"),
)
"""An adapter and head per task; the task is inferred by LDA on the frozen features."""

INCREMENTAL_SUM = Recipe(init=OnTop(), head=Cosine(grow=True), answers=Stacked())
"""An adapter per task over all earlier ones, which are frozen; one growing head."""

JOINT = Recipe(init=Fresh(), head=Cosine(), joint=True)
"""All tasks at once, with the same number of passes over each example as the others."""

RECIPES: dict[str, Recipe] = {
    "frozen": FROZEN,
    "sequential": SEQUENTIAL,
    "isolated": ISOLATED,
    "incremental-sum": INCREMENTAL_SUM,
    "joint": JOINT,
    "sequential-linear": replace(SEQUENTIAL, head=Linear(grow=True)),
    "isolated-linear": replace(ISOLATED, head=Linear()),
    "joint-linear": replace(JOINT, head=Linear()),
}


def find_recipe(name: str) -> Recipe:
    """Returns the recipe of that name.

    Raises:
        NotFoundError: naming the nearest one.
    """
    if name not in RECIPES:
        raise NotFoundError(f"no strategy {name!r}{suggest(name, RECIPES)}")
    return RECIPES[name]
