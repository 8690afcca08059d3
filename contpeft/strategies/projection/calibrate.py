"""Projection: the head learns first, the adapter later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from contpeft.errors import UnsupportedError
from contpeft.strategies.about import About
from contpeft.strategies.context import Context

__all__ = ["Calibrate"]


@dataclass(frozen=True)
class Calibrate:
    """The adapter stays as it is during the first steps of every task but the first.

    Gao et al. 2023, "A Unified Continual Learning Framework", section 3: the head comes up to the adapter's
    speed before the adapter moves. There the adapter is frozen; here its updates are taken back, so that
    Adam has seen gradients of it when it is let go.

    Attributes:
        share: of the planned steps; 0 for no calibration.
    """

    about: ClassVar[About] = About(paper="Gao et al. 2023, arXiv 2303.10070, section 3")

    share: float = 0.6

    def project(self, context: Context, before: Mapping[str, Tensor]) -> None:
        """Takes the adapter's update back while its time has not come.

        Raises:
            UnsupportedError: if the fit has no planned end.
        """
        if context.step == 0 or self.share == 0:
            return
        if context.steps.planned is None:
            raise UnsupportedError(
                "calibration takes a share of the planned steps, and this fit has no planned end; "
                "set max_epochs or max_steps"
            )
        if context.steps.done <= self.share * context.steps.planned:
            with torch.no_grad():
                for name, parameter in context.own_parameters.items():
                    parameter.copy_(before[name])
