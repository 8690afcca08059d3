"""Recipes whose classifier is class statistics: no gradient meets an old class."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from contpeft.adapters import Rule
from contpeft.strategies.answers import Classify, ClassifyTogether
from contpeft.strategies.consolidate import (
    GatherRidge,
    GatherStatistics,
    GatherSubspaces,
    GatherTokens,
    WeighTogether,
)
from contpeft.strategies.consolidate.gathering import Expert
from contpeft.strategies.head import Cosine, Own
from contpeft.strategies.init import FirstTask, Fresh, NoAdapter
from contpeft.strategies.recipe import Recipe

__all__ = ["CLASS_STATISTICS", "LAYERS_POOLED", "TOKENS_POOLED"]


def _aper(rule: Rule, what: str) -> Recipe:
    return Recipe(
        init=FirstTask(),
        head=Cosine(),
        consolidate=GatherStatistics(rules=(rule,), over="first+base"),
        answers=Classify(rule),
        what=f"An adapter at the first task, then frozen; {what} of its features beside the base's.",
        paper="Zhou et al. 2023, arXiv 2303.07338, section 4",
    )


_NCM = Recipe(
    init=NoAdapter(),
    consolidate=GatherStatistics(rules=("class-means",)),
    answers=Classify("class-means"),
    what="No adapter: the nearest class mean of the frozen features (SimpleCIL).",
    paper="Zhou et al. 2023, arXiv 2303.07338, section 3",
)

_RANPAC = Recipe(
    init=FirstTask(),
    head=Cosine(),
    consolidate=GatherRidge(over="first"),
    answers=Classify("ridge"),
    what="An adapter at the first task, then frozen; ridge regression on random projections.",
    paper="McDonnell et al. 2023, arXiv 2307.02251",
)
_RANPAC_FROZEN = replace(
    _RANPAC,
    init=NoAdapter(),
    head=Own(),
    consolidate=GatherRidge(),
    what="No adapter: ridge regression on random projections of the frozen features.",
)
_RANPAC_LAYERS = replace(
    _RANPAC_FROZEN,
    consolidate=GatherRidge(layers=4),
    what="No adapter: ridge regression on random projections of the last four layers' features.",
)

LAYERS_POOLED: Final[tuple[Expert, ...]] = (
    GatherStatistics(shrinkage=0.2, layers=4),
    GatherStatistics(shrinkage=0.2, layers=4, width=2000),
)
"""LDA of four frozen layers, and of random features of them."""

TOKENS_POOLED: Final[tuple[Expert, ...]] = (*LAYERS_POOLED, GatherTokens())
"""The same, and naive Bayes over tokens."""

_POOL = replace(
    _NCM,
    consolidate=WeighTogether(LAYERS_POOLED),
    answers=ClassifyTogether(),
    what="No adapter: LDA of the last four layers' features and of random features of them, pooled.",
    paper="Hayes and Kanan 2020, CVPR workshops; McDonnell et al. 2023, arXiv 2307.02251, section 3",
)

CLASS_STATISTICS: dict[str, Recipe] = {
    "ncm": _NCM,
    "aper": _aper("class-means", "class means"),
    "aper-lda": _aper("lda", "LDA"),
    "ranpac": _RANPAC,
    "ranpac-frozen": _RANPAC_FROZEN,
    "ranpac-layers": _RANPAC_LAYERS,
    "frozen-pool": _POOL,
    "frozen-tokens": replace(
        _POOL,
        consolidate=WeighTogether(TOKENS_POOLED),
        what="As frozen-pool, with naive Bayes over tokens pooled in: for texts.",
    ),
    "ease": Recipe(
        init=Fresh(),
        head=Cosine(),
        consolidate=GatherSubspaces(),
        answers=Classify("subspaces"),
        what="An adapter per task; prototypes of all classes in the subspaces of all adapters.",
        paper="Zhou et al. 2024, arXiv 2403.12030",
    ),
}
