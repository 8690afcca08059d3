"""Recipes whose adapters compute every row together, each by the weight that gates give it for the row."""

from __future__ import annotations

from dataclasses import replace

from contpeft.adapters.gated import GateOptions
from contpeft.strategies.answers import GatedTogether
from contpeft.strategies.consolidate import KeepRouting, ProtectGate
from contpeft.strategies.head import Cosine
from contpeft.strategies.init import WithGate
from contpeft.strategies.penalty import RoutedAsBefore
from contpeft.strategies.projection import ProjectGate
from contpeft.strategies.recipe import Recipe

__all__ = ["GATING"]

_GAINLORA = Recipe(
    init=WithGate(GateOptions("independent")),
    head=Cosine(grow=True, local=True),
    projection=ProjectGate(),
    consolidate=ProtectGate(),
    answers=GatedTogether(),
    what="An adapter and a gate per task; the new gate stays shut for what gates of earlier tasks have read.",
    paper="Liang et al. 2025, arXiv 2505.15424",
)
_MOCL = Recipe(
    init=WithGate(GateOptions("cosine")),
    head=Cosine(grow=True, local=True),
    answers=GatedTogether(),
    what="An adapter and a task vector per task; adapters are mixed by how near the row is to the vectors.",
    paper="Wang et al. 2024, arXiv 2404.00790",
)

_SAPT = replace(
    _MOCL,
    init=WithGate(GateOptions("attention")),
    what="An adapter and a key per task; adapters are mixed by the attention of a shared query to keys.",
    paper="Zhao et al. 2024, arXiv 2401.08295",
)

GATING: dict[str, Recipe] = {
    "gainlora": _GAINLORA,
    "gainlora-unprojected": replace(
        _GAINLORA,
        projection=None,
        what="The same without projection: the new gate starts shut for earlier rows and opens as it learns.",
    ),
    "sapt": _SAPT,
    "sapt-kept": replace(
        _SAPT,
        penalty=RoutedAsBefore(),
        consolidate=KeepRouting(),
        what="The same, and a few kept rows of every task are to be routed as they were.",
    ),
    "mocl": _MOCL,
}
