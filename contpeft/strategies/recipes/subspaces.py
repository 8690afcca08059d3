"""Recipes that learn each task in directions that no earlier task needs."""

from __future__ import annotations

from dataclasses import replace

from contpeft.strategies.answers import Latest, Stacked
from contpeft.strategies.consolidate import ProtectInputs
from contpeft.strategies.head import Cosine
from contpeft.strategies.init import DesignedSubspace, OffProtected, OrthogonalSubspace, ResidualGradient
from contpeft.strategies.projection import ProjectUpdate
from contpeft.strategies.recipe import Recipe

__all__ = ["SUBSPACES"]

_INFLORA = Recipe(
    init=DesignedSubspace(),
    head=Cosine(grow=True, local=True),
    consolidate=ProtectInputs(),
    answers=Stacked(),
    what="An adapter per task whose frozen A is designed in the inputs that no earlier task needs.",
    paper="Liang and Li 2024, arXiv 2404.00228",
)
_GPM = replace(
    _INFLORA,
    init=OffProtected(),
    projection=ProjectUpdate(),
    what="An adapter per task; the updates of its A keep off what earlier tasks read.",
    paper="Saha et al. 2021, arXiv 2103.09762",
)
_GPM_GRADIENT = replace(
    _GPM,
    init=OffProtected(gradients=True),
    projection=None,
    what="The same with projected gradients, as first published: what Adam makes of them is not projected.",
)
_NULL_SPACE = replace(
    _GPM,
    init=OffProtected(strength=0.95),
    projection=ProjectUpdate(strength=0.95),
    consolidate=ProtectInputs(energy="cov"),
    what="Updates of A in the approximate null space of earlier inputs, the rest of them scaled down.",
    paper="Wang et al. 2021, arXiv 2103.07113; Lu et al. 2024, arXiv 2406.05658",
)
_KEEPLORA = replace(
    _INFLORA,
    init=ResidualGradient(),
    what="An adapter per task, its frozen A the first gradient beside what base and earlier tasks use.",
    paper="KeepLoRA 2026, arXiv 2601.19659",
)
_OUTSIDE = OrthogonalSubspace()
_OSF = Recipe(
    init=_OUTSIDE,
    head=Cosine(grow=True, local=True),
    projection=_OUTSIDE,
    answers=Latest(),
    what="Whole weights trained outside singular directions of which more stay with every task.",
    paper="Nayak et al. 2025, arXiv 2504.07097",
)

SUBSPACES: dict[str, Recipe] = {
    "inflora": _INFLORA,
    "gpm": _GPM,
    "gpm-gradient": _GPM_GRADIENT,
    "null-space": _NULL_SPACE,
    "keeplora": _KEEPLORA,
    "osf": _OSF,
}
