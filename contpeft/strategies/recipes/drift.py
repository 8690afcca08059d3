"""Recipes whose statistics follow an adapter that is trained on."""

from __future__ import annotations

from dataclasses import replace

from contpeft.strategies.answers import Classify, ClassifyTogether
from contpeft.strategies.consolidate import FollowStatistics, GatherRidge, GatherStatistics, Then
from contpeft.strategies.head import Cosine
from contpeft.strategies.init import FromLast
from contpeft.strategies.recipe import Recipe

__all__ = ["DRIFT"]

_DRIFT_LDA = Recipe(
    init=FromLast(),
    head=Cosine(grow=True, local=True),
    consolidate=FollowStatistics(),
    answers=Classify("lda"),
    what="One adapter trained on and on; LDA of its features, taken along as they drift.",
    paper="after Gomez-Villa et al. 2024, arXiv 2407.08536, and Rypesc et al. 2024, arXiv 2409.18265",
)

DRIFT: dict[str, Recipe] = {
    "drift-lda": _DRIFT_LDA,
    "drift-lda-beside": replace(
        _DRIFT_LDA,
        consolidate=FollowStatistics(over="last+base"),
        what="One adapter trained on and on; LDA of its features beside the base's, taken along.",
    ),
    "drift-layers": replace(
        _DRIFT_LDA,
        consolidate=Then(
            (
                FollowStatistics(layers=2),
                GatherStatistics(rules=("lda",), shrinkage=0.2, layers=4),
            )
        ),
        answers=ClassifyTogether(),
        what="As drift-lda over two layers, times LDA of four frozen ones: a product of experts.",
    ),
    "drift-ranpac": replace(
        _DRIFT_LDA,
        consolidate=Then(
            (
                FollowStatistics(layers=2, calibrate=True),
                GatherRidge(layers=4, calibrate=True),
            )
        ),
        answers=ClassifyTogether(),
        what="As drift-lda over two layers, times RanPAC on four frozen ones, both calibrated.",
    ),
}
