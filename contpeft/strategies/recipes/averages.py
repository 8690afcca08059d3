"""Recipes with a moving average of the adapter beside the adapter."""

from __future__ import annotations

from dataclasses import replace

from contpeft.strategies.answers import Averaged, WithAverage
from contpeft.strategies.consolidate import KeepAverage
from contpeft.strategies.init import FromCopy
from contpeft.strategies.projection import Calibrate, Each, Follow
from contpeft.strategies.recipe import Recipe
from contpeft.strategies.recipes.bounds import BOUNDS

__all__ = ["AVERAGES"]

AVERAGES: dict[str, Recipe] = {
    "lae": replace(
        BOUNDS["sequential-local"],
        init=FromCopy(),
        projection=Each((Calibrate(), Follow())),
        consolidate=KeepAverage(),
        answers=WithAverage(),
        what="A fast adapter and its moving average answer together, the surer one for each label.",
        paper="Gao et al. 2023, arXiv 2303.10070",
    ),
    "ema": replace(
        BOUNDS["sequential"],
        init=FromCopy("average"),
        projection=Follow(),
        consolidate=KeepAverage(),
        answers=Averaged(),
        what="The moving average of the adapter answers, and is where the next task starts.",
        paper="Dziadzio et al. 2024, arXiv 2412.06712",
    ),
}
