"""Merging adapters: an exact algebra of low-rank updates, and rules on it; no model, no files.

But for rules on the entries of a weight itself (``space="delta"``, Fisher), nothing here ever makes a dense
``d_out x d_in`` matrix; costs are ``O(d R^2 + R^3)`` for updates whose ranks add up to ``R``.
"""

from __future__ import annotations

from contpeft.merging.budget import rank_for_energy, water_fill
from contpeft.merging.compare import (
    cosines,
    distance,
    energy_inside,
    gram,
    inner,
    principal_cosines,
    principal_sines,
)
from contpeft.merging.core import CoreSpace, core_space
from contpeft.merging.fuse import Fusion, Merged, ModuleReport, Source, fuse, in_order
from contpeft.merging.heads import Heads, merge_heads
from contpeft.merging.interference import Interference, InterferenceReport, interference
from contpeft.merging.kinds import check_mergeable, rules_for
from contpeft.merging.measures import (
    energy_inside_both,
    input_residual,
    overlap,
    singular_task_interference,
)
from contpeft.merging.rank import Rank
from contpeft.merging.rules import RULES, Rule, RuleSpec, make_rule
from contpeft.merging.site import Site
from contpeft.merging.update import Update, balanced_factors, canonical, combine, truncated

__all__ = [
    "RULES",
    "CoreSpace",
    "Fusion",
    "Heads",
    "Interference",
    "InterferenceReport",
    "Merged",
    "ModuleReport",
    "Rank",
    "Rule",
    "RuleSpec",
    "Site",
    "Source",
    "Update",
    "balanced_factors",
    "canonical",
    "check_mergeable",
    "combine",
    "core_space",
    "cosines",
    "distance",
    "energy_inside",
    "energy_inside_both",
    "fuse",
    "gram",
    "in_order",
    "inner",
    "input_residual",
    "interference",
    "make_rule",
    "merge_heads",
    "overlap",
    "principal_cosines",
    "principal_sines",
    "rank_for_energy",
    "rules_for",
    "singular_task_interference",
    "truncated",
    "water_fill",
]
