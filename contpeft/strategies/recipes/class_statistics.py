"""Recipes whose classifier is class statistics: no gradient meets an old class."""

from __future__ import annotations

from dataclasses import replace

from contpeft.adapters import Rule
from contpeft.strategies.answers import Classify
from contpeft.strategies.consolidate import GatherRidge, GatherStatistics, GatherSubspaces
from contpeft.strategies.head import Cosine, Own
from contpeft.strategies.init import FirstTask, Fresh, NoAdapter
from contpeft.strategies.recipe import Recipe

__all__ = ["CLASS_STATISTICS"]


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

CLASS_STATISTICS: dict[str, Recipe] = {
    "ncm": _NCM,
    "aper": _aper("class-means", "class means"),
    "aper-lda": _aper("lda", "LDA"),
    "ranpac": _RANPAC,
    "ranpac-frozen": _RANPAC_FROZEN,
    "ranpac-layers": _RANPAC_LAYERS,
    "ease": Recipe(
        init=Fresh(),
        head=Cosine(),
        consolidate=GatherSubspaces(),
        answers=Classify("subspaces"),
        what="An adapter per task; prototypes of all classes in the subspaces of all adapters.",
        paper="Zhou et al. 2024, arXiv 2403.12030",
    ),
}
