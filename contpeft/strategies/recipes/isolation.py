"""Recipes with an adapter and a head per task, and a router that infers the task."""

from __future__ import annotations

from dataclasses import replace

from contpeft.strategies.answers import RouteByStatistics
from contpeft.strategies.consolidate import GatherStatistics
from contpeft.strategies.head import Cosine, Linear
from contpeft.strategies.init import Fresh
from contpeft.strategies.recipe import Recipe

__all__ = ["ISOLATION"]

_ISOLATED = Recipe(
    init=Fresh(),
    head=Cosine(),
    consolidate=GatherStatistics(rules=("lda",)),
    answers=RouteByStatistics("lda"),
    what="An adapter and head per task; the task is inferred by LDA on the frozen features.",
)

ISOLATION: dict[str, Recipe] = {
    "isolated": _ISOLATED,
    "isolated-linear": replace(_ISOLATED, head=Linear()),
}
