"""Init: what earlier tasks were merged into is trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from contpeft.adapters import Factors, LiveFactors, stored_factors
from contpeft.merging import balanced_factors, canonical, truncated
from contpeft.spec import Parent
from contpeft.strategies.about import About
from contpeft.strategies.context import Context
from contpeft.strategies.init.from_last import FromLast
from contpeft.strategies.merged import answering_merge

__all__ = ["FromMerged"]

_WHO = "a start from a merged adapter"


@dataclass(frozen=True)
class FromMerged(FromLast):
    """The merge that answers is trained on, as far as the adapter's rank holds it.

    Each layer starts as the best approximation of its merged update that the fresh adapter's rank allows
    (Eckart and Young 1936), its singular values split evenly between the factors. Attaching it is therefore
    no no-op: the model starts as the merge left it. Directions beyond the merge's rank start as they do
    afresh.
    """

    about: ClassVar[About] = About(paper="Dziadzio et al. 2024, arXiv 2412.06712", needs=frozenset({"lora"}))

    def check(self, context: Context) -> None:
        """Checks that the adapter has factors for a merge to be put into.

        Raises:
            UnsupportedError: if not.
        """
        context.factors(_WHO)

    def start(self, context: Context) -> tuple[Parent, ...]:
        """Attaches an adapter that holds the merge; before the first merge, the last version."""
        merged = answering_merge(context.history)
        if merged is None:
            return super().start(context)
        context.adapted.check_base(merged)
        context.adapted.attach(context.spec)
        fill(context.factors(_WHO), stored_factors(context.store.load(merged.ref), _WHO))
        return (Parent(merged.ref, "continued"),)


@torch.no_grad()
def fill(live: Mapping[str, LiveFactors], stored: Mapping[str, Factors]) -> None:
    """Lets factors in a model hold stored updates, each cut to the rank that is there.

    Args:
        live: the factors, ``B`` zero; where nothing is stored they stay as they are.
        stored: the updates, by module.
    """
    for module, (down, up, scale) in live.items():
        if module in stored:
            own = stored[module]
            update, _ = truncated(canonical(own.up, own.down, own.scale), len(down))
            b, a = balanced_factors(update)
            down[: update.rank] = (a / abs(scale) ** 0.5).to(down)
            up[:, : update.rank] = (b * abs(scale) ** 0.5 / scale).to(up)
