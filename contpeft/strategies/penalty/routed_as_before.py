"""Penalty: rows of earlier tasks are routed as they were when their task was learnt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from contpeft.errors import UnsupportedError
from contpeft.strategies.about import About
from contpeft.strategies.context import Context
from contpeft.strategies.gating import ROUTING, gated_at_hand

__all__ = ["RoutedAsBefore"]


@dataclass(frozen=True)
class RoutedAsBefore:
    """How far the attention of kept rows is from what it was when their task was learnt.

    ``weight * mean_x KL(w_then(x) || w_now(x))``, adapters that came later having had weight 0 (Zhao et al.
    2024, SAPT's attentive reflection). The paper generates the rows; here they are kept
    (:class:`KeepRouting`), as what they are to a gate, so that a step costs the gate's two layers and no pass
    of the model.

    Attributes:
        weight: of the divergence.
    """

    about: ClassVar[About] = About(paper="Zhao et al. 2024, arXiv 2401.08295", needs=frozenset({"old data"}))

    weight: float = 1.0

    def loss(self, context: Context, batch: Any, outputs: Any) -> Tensor | None:
        """Returns the weighted divergence, a scalar; None while nothing is kept.

        Raises:
            UnsupportedError: if there is no gate, or its weights are no distribution.
        """
        gated = gated_at_hand(context, "routing as before")
        if gated.gate.options.rule != "attention":
            raise UnsupportedError(
                f"routing as before compares distributions, and gates of rule {gated.gate.options.rule!r} "
                "have none; give 'attention', or leave the penalty out"
            )
        kept = context.recall(ROUTING)
        if kept is None:
            return None
        device = context.adapted.device
        rows, then = context.once(
            "routing", lambda: [kept.tensors[n].to(device) for n in ("rows", "weights")]
        )
        now = gated.weigh(rows).clamp_min(torch.finfo(rows.dtype).tiny)
        past = then.clamp_min(torch.finfo(then.dtype).tiny)
        divergence: Tensor = (then * (past.log() - now[:, : then.shape[1]].log())).sum(1).mean()
        return self.weight * divergence
