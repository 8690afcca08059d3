"""Penalty: the new update has few entries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from contpeft.strategies.about import About
from contpeft.strategies.context import Context
from contpeft.strategies.penalty.reduction import Reduction, reduced

__all__ = ["SparseUpdate"]


@dataclass(frozen=True)
class SparseUpdate:
    """Updates are kept sparse, so that those of different tasks seldom meet in one entry (N-LoRA).

    ``weight * sum |s B A|`` over all entries and modules, of the product itself. Yang et al. 2024, "Is
    Parameter Collision Hindering Continual Learning in LLMs?", section 4.

    Deviations: the mean over entries is the default, as in :class:`OrthogonalRows`; and the first task is
    left free, so that it is plain LoRA's: with nothing before it there is nothing to run into.

    Attributes:
        weight: of the term in the loss. The published 0.4 is for ``reduction="sum"``.
        reduction: over entries.
    """

    about: ClassVar[About] = About(
        paper="Yang et al. 2024, arXiv 2410.10179, section 4", needs=frozenset({"lora"})
    )

    weight: float = 10.0
    reduction: Reduction = "mean"

    def loss(self, context: Context, batch: Any, outputs: Any) -> Tensor | None:
        """Returns the term, a scalar; None at the first task."""
        live = context.factors("keeping updates sparse")
        if not context.adapters:
            return None
        return self.weight * reduced([each.delta().abs() for each in live.values()], self.reduction)
