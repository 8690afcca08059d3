"""Penalty: the new adapter reads other directions than the earlier ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from contpeft.strategies.about import AN_ADAPTER, About
from contpeft.strategies.context import Context
from contpeft.strategies.earlier import earlier_rows
from contpeft.strategies.penalty.reduction import Reduction, reduced

__all__ = ["OrthogonalRows"]

_PART = "keeping rows orthogonal"


@dataclass(frozen=True)
class OrthogonalRows:
    """Rows of ``A`` are pushed away from the row spaces of all earlier adapters (O-LoRA).

    ``weight * sum_i |A_i A^T|^power`` over all entries, modules and earlier tasks ``i``. Wang et al. 2023,
    "Orthogonal Subspace Learning for Language Model Continual Learning", section 3.2: the text squares the
    entries (equation 7), the authors' code sums their sizes, which is the default here.

    It makes parameters orthogonal, not answers: inputs of earlier tasks are not confined to the rows of their
    ``A``, so earlier answers do change. Part of its effect is that ``A`` shrinks; see
    :class:`~contpeft.strategies.earlier.Meeting` for what to look at.

    Deviations: the mean over entries is the default, which needs no other weight for other ranks, depths and
    numbers of tasks; the paper's second term, a norm of the new factors, is left to weight decay.

    Attributes:
        weight: of the term in the loss. The published 0.5 is for ``reduction="sum"``; 400 of the mean is as
            much for twelve modules of rank 8 and one earlier task.
        reduction: over entries.
        power: 1 for sizes, 2 for squares.
    """

    about: ClassVar[About] = About(
        paper="Wang et al. 2023, arXiv 2310.14152, equation 7",
        growth=AN_ADAPTER,
        needs=frozenset({"lora"}),
    )

    weight: float = 400.0
    reduction: Reduction = "mean"
    power: Literal[1, 2] = 1

    def loss(self, context: Context, batch: Any, outputs: Any) -> Tensor | None:
        """Returns the term, a scalar; None at the first task. Its gradient flows into ``A`` alone."""
        live, earlier = context.factors(_PART), earlier_rows(context, _PART)
        if not earlier:
            return None
        products = [rows @ live[module].down.T for module, rows in earlier.items() if module in live]
        sizes = [each.abs() if self.power == 1 else each.square() for each in products]
        return self.weight * reduced(sizes, self.reduction)
