"""Recipes that train one adapter on and on and hold what mattered to earlier tasks."""

from __future__ import annotations

from dataclasses import replace

from contpeft.strategies.consolidate import Fisher, OutputSensitivity, PathIntegral
from contpeft.strategies.init import ScaledDirections, SharedFactors
from contpeft.strategies.penalty import Anchored, AnchoredUpdate, Distilled, OrthogonalRouting
from contpeft.strategies.projection import SumPath
from contpeft.strategies.recipe import Recipe
from contpeft.strategies.recipes.bounds import BOUNDS

__all__ = ["ANCHORS"]

_PARENT = BOUNDS["sequential-local"]
_SD = "Wu et al. 2025, arXiv 2501.13198"
_TO_PATH = Anchored("path", weight=1.0)

ANCHORS: dict[str, Recipe] = {
    "ewc": replace(
        _PARENT,
        penalty=Anchored("fisher", weight=2000.0),
        consolidate=Fisher("fisher"),
        what="One adapter trained on and on; its factors are held by their Fisher information.",
        paper="Kirkpatrick et al. 2017, arXiv 1612.00796",
    ),
    "ewc-dw": replace(
        _PARENT,
        penalty=AnchoredUpdate("fisher", weight=2000.0),
        consolidate=Fisher("fisher", of="update"),
        what="One adapter trained on and on; the entries of its update are held by their Fisher information.",
        paper="EWC-LoRA, 2026, arXiv 2602.17559",
    ),
    "si": replace(
        _PARENT,
        penalty=_TO_PATH,
        projection=SumPath(_TO_PATH),
        consolidate=PathIntegral("path"),
        what="One adapter trained on and on; parameters are held by what they did for earlier losses.",
        paper="Zenke et al. 2017, arXiv 1703.04200",
    ),
    "mas": replace(
        _PARENT,
        penalty=Anchored("sensitivity", weight=1.0),
        consolidate=OutputSensitivity("sensitivity"),
        what="One adapter trained on and on; parameters are held by how much the scores depend on them.",
        paper="Aljundi et al. 2018, arXiv 1711.09601",
    ),
    "lwf": replace(
        _PARENT,
        penalty=Distilled(),
        what="One adapter trained on and on that keeps saying of old classes what it said before.",
        paper="Li and Hoiem 2016, arXiv 1606.09282",
    ),
    "sd-lora": replace(
        _PARENT,
        init=ScaledDirections(),
        what="Earlier updates stay as directions whose magnitudes are learnt; a new one learns beside them.",
        paper=_SD,
    ),
    "sd-lora-rr": replace(
        _PARENT,
        init=ScaledDirections(ranks=((4, 0.8), (8, 0.6))),
        what="The same with smaller ranks for later tasks.",
        paper=_SD,
    ),
    "c-lora": replace(
        _PARENT,
        init=SharedFactors(),
        penalty=OrthogonalRouting(),
        what="One pair of factors for all tasks; later tasks learn a small matrix between the two.",
        paper="C-LoRA, 2025, arXiv 2502.17920",
    ),
}
