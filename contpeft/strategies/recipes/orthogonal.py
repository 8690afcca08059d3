"""Recipes that train whole weights outside of their main singular directions."""

from __future__ import annotations

from contpeft.strategies.answers import Latest
from contpeft.strategies.head import Cosine
from contpeft.strategies.init import OrthogonalSubspace
from contpeft.strategies.recipe import Recipe

__all__ = ["ORTHOGONAL"]

_OUTSIDE = OrthogonalSubspace()

ORTHOGONAL: dict[str, Recipe] = {
    "osf": Recipe(
        init=_OUTSIDE,
        head=Cosine(grow=True, local=True),
        projection=_OUTSIDE,
        answers=Latest(),
        what="Whole weights trained outside singular directions of which more stay with every task.",
        paper="Nayak et al. 2025, arXiv 2504.07097",
    ),
}
