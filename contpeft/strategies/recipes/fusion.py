"""Recipes that learn an adapter per task, then attention over all of them: AdapterFusion's two stages."""

from __future__ import annotations

from contpeft.strategies.answers import ByTask, Latest
from contpeft.strategies.head import Cosine
from contpeft.strategies.init import Fresh, FuseAll
from contpeft.strategies.penalty import NearIdentityValues
from contpeft.strategies.recipe import Recipe

__all__ = ["FUSIONS"]

_PER_TASK = Recipe(
    init=Fresh(),
    head=Cosine(),
    answers=ByTask(),
    after=Recipe(init=FuseAll(), head=Cosine(), penalty=NearIdentityValues(), answers=ByTask()),
    what="An adapter per task, then attention over all so far, trained for that task.",
    paper="Pfeiffer et al. 2021, arXiv 2005.00247",
    serves=frozenset({"task-incremental"}),
)
_GROWING = Cosine(grow=True, local=True)
_AGNOSTIC = Recipe(
    init=Fresh(),
    head=_GROWING,
    answers=Latest(),
    after=Recipe(init=FuseAll(one=True), head=_GROWING, penalty=NearIdentityValues(), answers=Latest()),
    what="An adapter per task, and one attention over all of them, trained on and on.",
    paper="Pfeiffer et al. 2021, arXiv 2005.00247",
)

FUSIONS: dict[str, Recipe] = {
    "fusion-per-task": _PER_TASK,
    "fusion-task-agnostic": _AGNOSTIC,
}
