"""Penalty: rows of earlier tasks with what the model once said of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from contpeft.errors import SpecError
from contpeft.strategies.about import About
from contpeft.strategies.context import Context
from contpeft.strategies.replay import Row, draw, positions, scores_of

__all__ = ["DarkReplay"]


@dataclass(frozen=True)
class DarkReplay:
    """Buffered rows keep their scores, and other buffered rows their labels (DER++).

    Buzzega et al. 2020, "Dark Experience for General Continual Learning", equation 6:
    ``a |z(x') - z'|^2 + b CE(x'', y'')`` over two independent draws, each of as many rows as the batch has.
    The squared distance is the mean over the scores, and only those are compared that were there when the row
    was buffered. There scores are taken while the task is trained on; here they are those of the trained
    model, as rows are buffered at the end of their task.

    Attributes:
        scores: ``a``, the weight of the squared distance.
        labels: ``b``, the weight of the cross-entropy.
    """

    about: ClassVar[About] = About(
        paper="Buzzega et al. 2020, arXiv 2004.07211, equation 6", needs=frozenset({"old data"})
    )

    scores: float = 0.2
    labels: float = 0.5

    def loss(self, context: Context, batch: Any, outputs: Any) -> Tensor | None:
        """Returns the sum of both terms, a scalar; None while there are no rows."""
        terms: list[Tensor] = []
        if self.scores and (rows := draw(context, len(batch["labels"]), "scores")):
            terms.append(self.scores * _moved(scores_of(context, rows), rows))
        if self.labels and (rows := draw(context, len(batch["labels"]), "labels")):
            terms.append(self.labels * F.cross_entropy(scores_of(context, rows), positions(context, rows)))
        return torch.stack(terms).sum() if terms else None


def _moved(scores: Tensor, rows: Sequence[Row]) -> Tensor:
    """Returns the mean squared distance of scores ``(n, C)`` from those that rows were buffered with.

    Raises:
        SpecError: if rows were buffered without scores, or the head has lost outputs since.
    """
    distances = []
    for now, row in zip(scores, rows, strict=True):
        before = row.more.get("scores")
        if before is None or before.numel() > now.numel():
            raise SpecError(
                "dark replay compares scores, and a buffered row has none of this head; "
                "fill the buffer with their scores and use a head that grows"
            )
        distances.append((now[: before.numel()] - before.to(now)).square())
    return torch.cat(distances).mean()
