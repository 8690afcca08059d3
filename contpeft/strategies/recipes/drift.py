"""Recipes whose statistics follow an adapter that is trained on."""

from __future__ import annotations

from dataclasses import replace

from contpeft.strategies.answers import Classify, ClassifyTogether
from contpeft.strategies.consolidate import FollowStatistics, GatherStatistics, Then, WeighTogether
from contpeft.strategies.consolidate.gathering import Expert
from contpeft.strategies.head import Cosine
from contpeft.strategies.init import FromLast
from contpeft.strategies.recipe import Recipe
from contpeft.strategies.recipes.class_statistics import LAYERS_POOLED, TOKENS_POOLED

__all__ = ["DRIFT"]

_DRIFT_LDA = Recipe(
    init=FromLast(),
    head=Cosine(grow=True, local=True),
    consolidate=FollowStatistics(),
    answers=Classify("lda"),
    what="One adapter trained on and on; LDA of its features, taken along as they drift.",
    paper="after Gomez-Villa et al. 2024, arXiv 2407.08536, and Rypesc et al. 2024, arXiv 2409.18265",
)

_FOLLOWED: tuple[Expert, ...] = (FollowStatistics(layers=2),)

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
    "drift-pool": replace(
        _DRIFT_LDA,
        consolidate=WeighTogether(_FOLLOWED + LAYERS_POOLED),
        answers=ClassifyTogether(),
        what="As drift-lda over two layers, pooled with LDA of four frozen ones and of random features.",
    ),
    "drift-tokens": replace(
        _DRIFT_LDA,
        consolidate=WeighTogether(_FOLLOWED + TOKENS_POOLED),
        answers=ClassifyTogether(),
        what="As drift-pool, with naive Bayes over tokens pooled in: for texts.",
    ),
}
