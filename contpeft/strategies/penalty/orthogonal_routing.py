"""Penalty: what a task adds to a routing matrix reads other directions than what was there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from contpeft.adapters import RoutingMatrix, routing_matrices
from contpeft.errors import UnsupportedError
from contpeft.strategies.about import About
from contpeft.strategies.context import Context
from contpeft.strategies.penalty.reduction import Reduction, reduced

__all__ = ["OrthogonalRouting"]


@dataclass(frozen=True)
class OrthogonalRouting:
    """``R_new`` is pushed away from what ``R_old`` reads: ``weight * |R_new R_old^T|_F^2`` (C-LoRA).

    "C-LoRA: Continual Low-Rank Adaptation for Pre-trained Models", 2025, arXiv 2502.17920: the two are to be
    orthogonal. In the bases of :class:`~contpeft.strategies.init.SharedFactors` the norm is that of
    ``dW_new dW_old^T`` over the squared scale, which no choice of factors changes. Once ``R_old`` has full
    rank only ``R_new = 0`` is orthogonal to it: the term is no constraint. It says that the more earlier
    tasks made of a direction of the inputs, the less is to be learnt along it.

    Deviations: which side of the two is multiplied is ours, the inputs', as in :class:`OrthogonalRows`; so is
    the mean over entries, which needs no other weight for other ranks and depths.

    Attributes:
        weight: of the term in the loss; ours.
        reduction: over entries.
    """

    about: ClassVar[About] = About(paper="C-LoRA, 2025, arXiv 2502.17920", needs=frozenset({"lora"}))

    weight: float = 10.0
    reduction: Reduction = "mean"

    def loss(self, context: Context, batch: Any, outputs: Any) -> Tensor | None:
        """Returns the term, a scalar; None at the first task.

        Raises:
            UnsupportedError: if no routing matrix is learnt at a later one.
        """
        if context.previous is None:
            return None
        found = context.once("routing matrices", lambda: _matrices(context))
        return self.weight * reduced([(new @ old.T).square() for old, new in found], self.reduction)


def _matrices(context: Context) -> list[RoutingMatrix]:
    attached = context.adapted.attachment
    found = [] if attached is None else routing_matrices(attached)
    if not found:
        raise UnsupportedError(
            "keeping routing matrices orthogonal needs an adapter that has some; give init=SharedFactors()"
        )
    return found
