"""Recipes that keep rows of earlier tasks and learn them again beside the new ones."""

from __future__ import annotations

from dataclasses import replace

from contpeft.strategies.consolidate import FillBuffer
from contpeft.strategies.penalty import DarkReplay, Replay
from contpeft.strategies.recipe import Recipe
from contpeft.strategies.recipes.bounds import BOUNDS

__all__ = ["REPLAY"]

_ER = replace(
    BOUNDS["sequential"],
    penalty=Replay(),
    consolidate=FillBuffer(),
    what="One adapter trained on and on, with rows of a reservoir beside each batch.",
    paper="Chaudhry et al. 2019, arXiv 1902.10486",
)

REPLAY: dict[str, Recipe] = {
    "er": _ER,
    "er-balanced": replace(
        _ER,
        consolidate=FillBuffer("class-balanced"),
        what="As er, with as many rows of each class in the buffer.",
    ),
    "er-herding": replace(
        _ER,
        consolidate=FillBuffer("herding"),
        what="As er-balanced, with the rows whose mean feature is nearest to their class's.",
        paper="Rebuffi et al. 2017, arXiv 1611.07725, algorithms 4 and 5",
    ),
    "derpp": replace(
        _ER,
        penalty=DarkReplay(),
        consolidate=FillBuffer(scores=True),
        what="As er, and buffered rows keep the scores they had (DER++).",
        paper="Buzzega et al. 2020, arXiv 2004.07211",
    ),
    "latent-replay": replace(
        _ER,
        consolidate=FillBuffer(latent=True),
        what="As er, with hidden states below the adapter in the buffer, in the place of inputs.",
        paper="Pellegrini et al. 2020, arXiv 1912.01100",
    ),
}
