"""Penalty: rows of earlier tasks beside each batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional as F

from contpeft.strategies.about import About
from contpeft.strategies.context import Context
from contpeft.strategies.replay import draw, positions, scores_of

__all__ = ["Replay"]


@dataclass(frozen=True)
class Replay:
    """The cross-entropy of as many buffered rows as the batch has (experience replay).

    Chaudhry et al. 2019, "On Tiny Episodic Memories in Continual Learning", algorithm 1. All classes of the
    head compete for buffered rows, also where the task's own rows only meet the task's classes. There the
    batch and the buffered rows are one batch with one mean; here they are two means, the second weighted.

    Attributes:
        weight: of the term; 0 for no replay.
    """

    about: ClassVar[About] = About(
        paper="Chaudhry et al. 2019, arXiv 1902.10486, algorithm 1", needs=frozenset({"old data"})
    )

    weight: float = 1.0

    def loss(self, context: Context, batch: Any, outputs: Any) -> Tensor | None:
        """Returns the weighted mean cross-entropy, a scalar; None while there are no rows."""
        rows = draw(context, len(batch["labels"]), "rows") if self.weight else []
        if not rows:
            return None
        return self.weight * F.cross_entropy(scores_of(context, rows), positions(context, rows))
