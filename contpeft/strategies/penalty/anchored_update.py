"""Penalty: the entries of the update that mattered to earlier tasks stay as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from contpeft.adapters import LiveFactors, stored_factors
from contpeft.errors import SpecError
from contpeft.strategies.about import About
from contpeft.strategies.context import Context

__all__ = ["AnchoredUpdate"]

_PART = "anchoring updates"
_Anchor = tuple[LiveFactors, Tensor, Tensor]
"""Factors at hand, the last version's update, and what its entries matter, both ``(d_out, d_in)``."""


@dataclass(frozen=True)
class AnchoredUpdate:
    """Pulls the entries of ``s B A`` back to the last task's, the more the more they mattered (EWC-LoRA).

    ``weight / 2 * sum F (s B A - (s B A)*)^2``, ``F`` by :class:`~contpeft.strategies.consolidate.Fisher` of
    the update. "EWC-LoRA", 2026, arXiv 2602.17559. Unlike anchors of ``A`` and ``B`` it does not change when
    the factors share their product in another way (``A -> c A``, ``B -> B / c``), which the model cannot see
    either.

    Attributes:
        memory: what the importances are remembered under.
        weight: of the term in the loss.
    """

    about: ClassVar[About] = About(paper="EWC-LoRA, 2026, arXiv 2602.17559", needs=frozenset({"lora"}))

    memory: str = "fisher"
    weight: float = 2000.0

    def loss(self, context: Context, batch: Any, outputs: Any) -> Tensor | None:
        """Returns the term, a scalar; None at the first task.

        Raises:
            SpecError: if what is remembered is of anything else than updates.
        """
        anchors = context.once(f"update anchors of {self.memory}", lambda: self._found(context))
        if not anchors:
            return None
        terms = [(importance * (live.delta() - last).square()).sum() for live, last, importance in anchors]
        return self.weight / 2 * torch.stack(terms).sum()

    def _found(self, context: Context) -> list[_Anchor]:
        importances, live = context.recall(self.memory), context.factors(_PART)
        if importances is None or context.previous is None:
            return []
        if not importances.tensors.keys() <= live.keys():
            raise SpecError(
                f"{self.memory!r} remembers no importances of the adapter's updates; "
                'give Fisher(of="update") with AnchoredUpdate, or Anchored'
            )
        last, device = stored_factors(context.previous[1], _PART), context.adapted.device
        return [
            (live[module], last[module].delta().to(device), matters.to(device))
            for module, matters in importances.tensors.items()
        ]
