"""Projection: a moving average follows the adapter; the adapter itself is left as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from contpeft.errors import UnsupportedError
from contpeft.strategies.about import About
from contpeft.strategies.averages import AVERAGE, Space, check_averaged, live_values, stored_values
from contpeft.strategies.context import Context

__all__ = ["Follow"]


@dataclass(frozen=True)
class Follow:
    """An exponential moving average of the adapter goes on from task to task, a step behind a step.

    ``average <- d * average + (1 - d) * adapter`` after each step of every task but the first, whose average
    is what it ends with (Gao et al. 2023, section 3). It never gets a gradient. Averages of the two factors
    of LoRA are not the average of their products: ``space="delta"`` averages these, and keeps a dense
    matrix for each adapted one while a task is learnt.

    Attributes:
        decay: ``d`` of a step; None to derive it from ``half_life``.
        half_life: tasks after which the weight of what was is halved: ``d = 0.5 ** (1 / (h * steps))``.
            The paper's 0.9999 is meant for some thousand steps a task.
        space: what is averaged.
    """

    about: ClassVar[About] = About(
        paper="Gao et al. 2023, arXiv 2303.10070, section 3", growth="nothing: one more adapter"
    )

    decay: float | None = None
    half_life: float = 1.0
    space: Space = "factors"

    def check(self, context: Context) -> None:
        """Checks that the adapter has what is averaged.

        Raises:
            UnsupportedError: if not.
        """
        check_averaged(context, self.space)

    def project(self, context: Context, before: Mapping[str, Tensor]) -> None:
        """Moves the average by one step.

        Raises:
            UnsupportedError: if the decay is to be derived and the fit has no planned end.
        """
        last = context.last(AVERAGE)
        if last is None:
            return
        start = context.once("average", lambda: stored_values(context.store.load(last.ref), self.space))
        weight = 1 - self._decay(context.steps.planned)
        for name, now in live_values(context, self.space).items():
            key = f"{AVERAGE}.{name}"
            average = context.working.get(key, start[name]).to(now.device, torch.float32)
            # Not in place: what a checkpoint holds must stay as it was.
            context.working[key] = torch.lerp(average, now.float(), weight)

    def _decay(self, planned: int | None) -> float:
        if self.decay is not None:
            return self.decay
        if planned is None:
            raise UnsupportedError(
                "a half-life is counted in planned steps, and this fit has no planned end; "
                "set max_epochs or max_steps, or give a decay"
            )
        return float(0.5 ** (1 / (self.half_life * planned)))
