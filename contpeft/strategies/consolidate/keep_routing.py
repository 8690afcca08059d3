"""Consolidate: how some of the task's rows are routed is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional as F

from contpeft.spec import Version
from contpeft.strategies.about import About
from contpeft.strategies.context import Context
from contpeft.strategies.gating import ROUTING, gated_at_hand, task_rows

__all__ = ["KeepRouting"]


@dataclass(frozen=True)
class KeepRouting:
    """A few rows of every task, as what they are to a gate, with the weights that gates give them now.

    The rows are mean embeddings of their tokens: no text, and old data all the same.

    Attributes:
        rows: of a task, drawn at random.
    """

    about: ClassVar[About] = About(
        growth="32 d a task", needs=frozenset({"examples", "features", "old data"})
    )

    rows: int = 32

    def end(self, context: Context, trained: Version | None) -> tuple[Version, ...]:
        """Registers the rows of all tasks so far.

        Raises:
            UnsupportedError: if there is no gate, or no examples.
        """
        gated = gated_at_hand(context, "keeping how rows are routed")
        all_rows = task_rows(context, "keeping how rows are routed")
        drawn = torch.randperm(len(all_rows), generator=torch.Generator().manual_seed(context.seed))
        rows = all_rows[drawn[: self.rows].to(all_rows.device)]
        with torch.no_grad():
            weights = gated.weigh(rows).cpu()
        kept, rows = context.recall(ROUTING), rows.cpu()
        if kept is not None:
            wider = F.pad(kept.tensors["weights"], (0, weights.shape[1] - kept.tensors["weights"].shape[1]))
            rows, weights = torch.cat([kept.tensors["rows"], rows]), torch.cat([wider, weights])
        return (context.remember(ROUTING, {"rows": rows, "weights": weights}, {"rows": self.rows}),)
