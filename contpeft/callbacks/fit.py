"""What the callback knows of the fit it is in."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from contpeft.adapters.dynamics import Dynamics
from contpeft.strategies import Context

__all__ = ["Fit"]


@dataclass
class Fit:
    """What is known of one fit.

    Attributes:
        context: the task at hand; None until the adapter is attached.
        lent: what ends the tap on the head, and the use of the prefix cache.
        trainable: what the adapter and the head train.
        dtype: of the base when the adapter was attached.
        before: trainable parameters before the update that is to be corrected.
        stepping: whether the optimizer has begun a step whose end was not seen yet.
        steps: batches trained on, those before a resumption included.
        seconds: time trained before a resumption.
        started: when training started in this process; None until then.
    """

    context: Context | None = None
    lent: ExitStack = field(default_factory=ExitStack)
    trainable: list[nn.Parameter] = field(default_factory=list)
    dtype: torch.dtype | None = None
    before: dict[str, Tensor] | None = None
    stepping: bool = False
    steps: int = 0
    seconds: float = 0.0
    started: float | None = None

    @property
    def dynamics(self) -> Dynamics:
        """What the adapter's method does around every step."""
        attached = None if self.context is None else self.context.adapted.attachment
        return Dynamics() if attached is None else attached.dynamics

    def elapsed(self) -> float:
        """Returns the seconds trained so far."""
        return self.seconds + (0.0 if self.started is None else time.monotonic() - self.started)
