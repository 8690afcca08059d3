"""Recipes with an adapter and a head per task, and a router that infers the task."""

from __future__ import annotations

from dataclasses import replace

from contpeft.adapters import Rule
from contpeft.strategies.answers import MixByArrow, MixByStatistics, RouteByStatistics, TheSurest
from contpeft.strategies.consolidate import Freeze, GatherRidge, GatherStatistics, KeepFeatures
from contpeft.strategies.head import Cosine, Linear
from contpeft.strategies.init import Fresh
from contpeft.strategies.recipe import Recipe

__all__ = ["ISOLATION"]


def _routed(rule: Rule, what: str, paper: str = "") -> Recipe:
    return Recipe(
        init=Fresh(),
        head=Cosine(),
        consolidate=GatherStatistics(rules=(rule,)),
        answers=RouteByStatistics(rule),
        what=f"An adapter and head per task; the task is inferred {what}.",
        paper=paper,
    )


_ISOLATED = _routed("lda", "by LDA on the frozen features", "Hayes and Kanan 2020, CVPR workshops")

ISOLATION: dict[str, Recipe] = {
    "isolated": _ISOLATED,
    "isolated-linear": replace(
        _ISOLATED, head=Linear(), what="As isolated, with affine heads that are random at first."
    ),
    "isolated-prototype": _routed(
        "class-means", "by the nearest class mean of the frozen features", "Rebuffi et al. 2017, eq. 2"
    ),
    "isolated-mahalanobis": _routed(
        "mahalanobis", "by Mahalanobis distance to the class means", "Lee et al. 2018, arXiv 1807.03888"
    ),
    "isolated-oas": _routed(
        "oas",
        "by Mahalanobis distance, the covariance shrunk as its sample tells",
        "Chen et al. 2010, arXiv 0907.4698",
    ),
    "isolated-ridge": replace(
        _ISOLATED,
        consolidate=GatherRidge(),
        answers=RouteByStatistics("ridge"),
        what="An adapter and head per task; the task is inferred by ridge regression on random features.",
        paper="McDonnell et al. 2023, arXiv 2307.02251",
    ),
    "isolated-confidence": replace(
        _ISOLATED,
        consolidate=Freeze(),
        answers=TheSurest("confidence"),
        what="An adapter and head per task; the head with the highest probability answers.",
        paper="",
    ),
    "isolated-energy": replace(
        _ISOLATED,
        consolidate=Freeze(),
        answers=TheSurest("energy"),
        what="An adapter and head per task; the head with the lowest free energy answers.",
        paper="Liu et al. 2020, arXiv 2010.03759",
    ),
    "isolated-soft": replace(
        _ISOLATED,
        answers=MixByStatistics("lda", top=2),
        what="An adapter and head per task; each row by a mixture of the two that LDA finds likeliest.",
        paper="",
    ),
    "isolated-arrow": replace(
        _ISOLATED,
        consolidate=Freeze(),
        answers=MixByArrow(),
        what="An adapter and head per task; each token by a mixture, weighed by the adapters' directions.",
        paper="Ostapenko et al. 2024, arXiv 2405.11157",
    ),
    "isolated-gate": replace(
        _ISOLATED,
        consolidate=KeepFeatures("gate"),
        answers=RouteByStatistics("gate"),
        what="An adapter and head per task; the task is inferred by a gate learnt from a few kept features.",
        paper="",
    ),
    "isolated-retrieval": replace(
        _ISOLATED,
        consolidate=KeepFeatures("nearest"),
        answers=MixByStatistics("nearest", top=2, temperature=0.1),
        what="An adapter and head per task; the two whose examples are nearest are retrieved and mixed.",
        paper="Zhao et al. 2024, arXiv 2402.09997",
    ),
}
