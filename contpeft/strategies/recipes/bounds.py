"""Recipes that every result is to be read beside: what needs no method, and what forgets without one."""

from __future__ import annotations

from dataclasses import replace

from contpeft.strategies.answers import ByStatistics, Latest, Stacked
from contpeft.strategies.consolidate import GatherStatistics
from contpeft.strategies.head import Cosine, Linear
from contpeft.strategies.init import Fresh, FromLast, HeadOnly, NoAdapter, OnTop
from contpeft.strategies.recipe import Recipe

__all__ = ["BOUNDS"]

_FROZEN = Recipe(
    init=NoAdapter(),
    consolidate=GatherStatistics(rules=("class-means", "lda")),
    answers=ByStatistics(),
    what="No adapter: class means and streaming LDA on the frozen features; the bound to beat.",
    paper="Zhou et al. 2023, arXiv 2303.07338; Hayes and Kanan 2020, CVPR workshops",
)
_FROZEN_LAYERS = replace(
    _FROZEN,
    consolidate=GatherStatistics(rules=("lda",), shrinkage=0.2, layers=4),
    what="No adapter: streaming LDA on the frozen features of the last four layers, a stronger bound.",
    paper="Hayes and Kanan 2020, CVPR workshops",
)
_HEADS = Recipe(
    init=HeadOnly(),
    head=Cosine(grow=True, local=True),
    answers=Latest(),
    what="No adapter: a head per task trained on the frozen features.",
)
_SEQUENTIAL = Recipe(
    init=FromLast(),
    head=Cosine(grow=True),
    what="One adapter trained on and on with one growing head: what forgets.",
)
_INCREMENTAL_SUM = Recipe(
    init=OnTop(),
    head=Cosine(grow=True),
    answers=Stacked(),
    what="An adapter per task over all earlier ones, which are frozen; one growing head.",
)
_JOINT = Recipe(
    init=Fresh(),
    head=Cosine(),
    joint=True,
    what="All tasks at once, with the same number of passes over each example as the others.",
)

BOUNDS: dict[str, Recipe] = {
    "frozen": _FROZEN,
    "frozen-layers": _FROZEN_LAYERS,
    "frozen-heads": _HEADS,
    "sequential": _SEQUENTIAL,
    "incremental-sum": _INCREMENTAL_SUM,
    "joint": _JOINT,
    "frozen-heads-linear": replace(
        _HEADS,
        head=Linear(grow=True, local=True),
        what="No adapter: an affine head per task, random at first, trained on the frozen features.",
    ),
    "sequential-linear": replace(
        _SEQUENTIAL,
        head=Linear(grow=True),
        what="One adapter trained on and on with one growing affine head, its new rows random.",
    ),
    "sequential-local": replace(
        _SEQUENTIAL,
        head=Cosine(grow=True, local=True),
        what="One adapter trained on and on, the loss over each task's own classes alone.",
    ),
    "joint-linear": replace(
        _JOINT,
        head=Linear(),
        what="All tasks at once, as joint, with an affine head that is random at first.",
    ),
}
