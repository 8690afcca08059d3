"""Penalty: the new update stays away from the entries that earlier ones use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from contpeft.strategies.about import About
from contpeft.strategies.consolidate.accumulate import USED
from contpeft.strategies.context import Context

__all__ = ["UsedEntries"]


@dataclass(frozen=True)
class UsedEntries:
    """Entries that carry weight of earlier updates are not used again (ELLA).

    ``weight * sum (dW * W_past)^2`` over all entries and modules, where ``W_past`` sums the sizes of all
    earlier updates, entry by entry (:class:`~contpeft.strategies.consolidate.AccumulateUpdates`). ELLA, 2026,
    arXiv 2601.02232. Both factors are small, so that the weight has to be large: the term falls with the
    fourth power of the updates' scale.

    Attributes:
        weight: of the term in the loss.
    """

    about: ClassVar[About] = About(paper="ELLA, 2026, arXiv 2601.02232", needs=frozenset({"lora"}))

    weight: float = 1e3

    def loss(self, context: Context, batch: Any, outputs: Any) -> Tensor | None:
        """Returns the term, a scalar; None at the first task."""
        live, memory = context.factors("staying away from used entries"), context.recall(USED)
        if memory is None:
            return None
        used: dict[str, Tensor] = context.once(
            "used entries",
            lambda: {name: each.to(context.adapted.device) for name, each in memory.tensors.items()},
        )
        terms = [(live[module].delta() * each).square().sum() for module, each in used.items()]
        return self.weight * torch.stack(terms).sum()
