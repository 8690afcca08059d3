"""Recipes that merge after every task: one adapter answers, whose size does not grow with the tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from contpeft.strategies.answers import Merged
from contpeft.strategies.consolidate import (
    BestMerge,
    KeepRows,
    MergeAfter,
    MergeEma,
    MergeFactors,
    MergeOn,
    RepairMerge,
    Then,
)
from contpeft.strategies.drift import LostOnRows
from contpeft.strategies.head import Cosine
from contpeft.strategies.init import Fresh, FromLast, FromMerged, Orthonormal
from contpeft.strategies.parts import Consolidate, Init
from contpeft.strategies.recipe import Recipe

__all__ = ["INITS", "MERGING", "with_every_init"]

INITS: Final[Mapping[str, Init]] = {
    "fresh": Fresh(),
    "last": FromLast(),
    "merged": FromMerged(),
    "orthonormal": Orthonormal(),
}
"""The ways in which the adapter that is going to be merged can start."""


def _merging(what: str, paper: str, merge: Consolidate, init: Init | None = None) -> Recipe:
    return Recipe(
        init=init or Fresh(),
        head=Cosine(grow=True, local=True),
        consolidate=merge,
        answers=Merged(),
        what=what,
        paper=paper,
    )


_AVERAGE = _merging(
    "Adapters learnt apart, and their mean.", "Wortsman et al. 2022, arXiv 2203.05482", MergeOn("average")
)
_TIES = _merging(
    "Adapters learnt apart: what is small is dropped, a sign elected, what agrees averaged.",
    "Yadav et al. 2023, arXiv 2306.01708",
    MergeAfter("ties"),
)
_MAGMAX = _merging(
    "One adapter trained on and on; of each weight the largest change any task left, halved.",
    "Marczak et al. 2024, arXiv 2407.06322",
    MergeOn("magmax", {"space": "delta"}, scale=0.5),
    FromLast(),
)
_EMA = _merging(
    "Training goes on from a moving average of what was trained.",
    "Dziadzio et al. 2024, arXiv 2412.06712",
    MergeEma(),
    FromMerged(),
)

MERGING: dict[str, Recipe] = {
    "merge-average": _AVERAGE,
    "merge-average-sequential": replace(
        _AVERAGE, init=FromLast(), what="One adapter trained on and on, and the mean of its snapshots."
    ),
    "merge-sum": _merging(
        "Adapters learnt apart, and their sum.", "Hu et al. 2022, arXiv 2106.09685", MergeOn("sum")
    ),
    "merge-task-arithmetic": _merging(
        "Adapters learnt apart, and a share of their sum.",
        "Ilharco et al. 2023, arXiv 2212.04089",
        MergeOn("sum", scale=0.3),
    ),
    "merge-ties": _TIES,
    "merge-ties-sequential": replace(
        _TIES, init=FromLast(), what="One adapter trained on and on, and TIES of its snapshots."
    ),
    "merge-dare": _merging(
        "Adapters learnt apart: entries dropped at random, the rest rescaled and averaged.",
        "Yu et al. 2024, arXiv 2311.03099",
        MergeAfter("dare", mean=True),
    ),
    "merge-magmax": _MAGMAX,
    "merge-magmax-independent": replace(
        _MAGMAX, init=Fresh(), what="Adapters learnt apart; of each weight the largest change, halved."
    ),
    "merge-opcm": _merging(
        "Adapters learnt apart, each projected off the merge before it is added; constant norm.",
        "Tang et al. 2025, arXiv 2501.09522",
        MergeOn("opcm"),
    ),
    "merge-null-space": _merging(
        "Adapters learnt apart, each added where the merge so far reads nothing.",
        "NUFILT, ICLR 2026",
        MergeOn("null-space"),
    ),
    "merge-ema": _EMA,
    "merge-ema-independent": replace(
        _EMA, init=Fresh(), what="Adapters learnt apart, and their moving average."
    ),
    "slao": _merging(
        "One adapter trained on from orthonormal inputs; the merge follows ever more slowly.",
        "SLAO 2025, arXiv 2512.23017",
        MergeFactors(),
        Orthonormal(),
    ),
    "merge-best": _merging(
        "Adapters learnt apart, by the rule that is found best after each task without old data.",
        "",
        BestMerge(),
    ),
    "merge-best-on-rows": _merging(
        "Adapters learnt apart, by the rule that is best after each task on a few kept rows.",
        "",
        Then((KeepRows(), BestMerge(by="rows"))),
    ),
    "merge-repaired": _merging(
        "One adapter trained on and on; the mean of its snapshots, taken back where earlier classes drift.",
        "Wortsman et al. 2022, arXiv 2109.01903",
        Then((MergeOn("average"), RepairMerge())),
        FromLast(),
    ),
    "merge-repaired-on-rows": _merging(
        "The same, taken back where accuracy is lost on a few kept rows of earlier tasks.",
        "Wortsman et al. 2022, arXiv 2109.01903",
        Then((MergeOn("average"), RepairMerge(tolerance=0.02, drift=LostOnRows()), KeepRows())),
        FromLast(),
    ),
}


def with_every_init(name: str) -> dict[str, Recipe]:
    """Returns a merging recipe with every start of its adapters, as ``name-from-last`` and so on.

    Args:
        name: one of :data:`MERGING`.
    """
    return {f"{name}-from-{start}": replace(MERGING[name], init=init) for start, init in INITS.items()}
