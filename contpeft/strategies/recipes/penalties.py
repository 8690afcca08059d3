"""Recipes whose loss keeps a task's update away from what earlier ones use."""

from __future__ import annotations

from dataclasses import replace

from contpeft.strategies.answers import Stacked
from contpeft.strategies.consolidate import AccumulateUpdates, MeasureOverlap, Then
from contpeft.strategies.head import Cosine
from contpeft.strategies.init import OnTop
from contpeft.strategies.penalty import OrthogonalRows, SparseUpdate, UsedEntries
from contpeft.strategies.recipe import Recipe

__all__ = ["PENALTIES"]

_SUM = Recipe(
    init=OnTop(),
    head=Cosine(grow=True, local=True),
    answers=Stacked(),
    what="An adapter per task over all earlier ones, the loss over each task's own classes alone.",
)

PENALTIES: dict[str, Recipe] = {
    "incremental-sum-local": _SUM,
    "o-lora": replace(
        _SUM,
        penalty=OrthogonalRows(),
        consolidate=MeasureOverlap(),
        what="An adapter per task whose rows are pushed away from those of all earlier ones.",
        paper="Wang et al. 2023, arXiv 2310.14152",
    ),
    "n-lora": replace(
        _SUM,
        penalty=SparseUpdate(),
        consolidate=MeasureOverlap(),
        what="An adapter per task whose update is kept sparse, so that updates seldom meet.",
        paper="Yang et al. 2024, arXiv 2410.10179",
    ),
    "ella": replace(
        _SUM,
        penalty=UsedEntries(),
        consolidate=Then((MeasureOverlap(), AccumulateUpdates())),
        what="An adapter per task that stays away from the entries earlier updates have used.",
        paper="ELLA, 2026, arXiv 2601.02232",
    ),
}
