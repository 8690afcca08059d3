"""Recipes that train the classifier again once a task is learnt."""

from __future__ import annotations

from contpeft.strategies.answers import BeforeAndAfter
from contpeft.strategies.consolidate import AlignClassifier
from contpeft.strategies.head import Linear
from contpeft.strategies.init import FromLast
from contpeft.strategies.projection import Slow
from contpeft.strategies.recipe import Recipe

__all__ = ["ALIGNMENT"]

ALIGNMENT: dict[str, Recipe] = {
    "slca": Recipe(
        init=FromLast(),
        head=Linear(grow=True, local=True),
        projection=Slow(0.1),
        consolidate=AlignClassifier(),
        answers=BeforeAndAfter(),
        what="One slowly trained adapter; then the head alone, on Gaussian features of all classes.",
        paper="Zhang et al. 2023, arXiv 2303.05118",
    ),
}
