"""Projection: the adapter learns more slowly than the head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from contpeft.strategies.about import About
from contpeft.strategies.context import Context

__all__ = ["Slow"]


@dataclass(frozen=True)
class Slow:
    """The adapter's updates are scaled, the head's are not (SLCA's slow learner).

    Zhang et al. 2023, "SLCA: Slow Learner with Classifier Alignment", section 3.2. There are two learning
    rates there; for optimizers whose step is proportional to the rate (SGD, Adam, AdamW with its decay) a
    scaled update is the very same, and needs no word of the user's ``configure_optimizers``.

    Attributes:
        factor: the adapter's learning rate over the head's; 0.1 for LoRA (SLCA++), 0.01 for whole models.
    """

    about: ClassVar[About] = About(paper="Zhang et al. 2023, arXiv 2303.05118, section 3.2")

    factor: float = 0.1

    def project(self, context: Context, before: Mapping[str, Tensor]) -> None:
        """Takes back a share of what the optimizer did to the adapter."""
        with torch.no_grad():
            for name, parameter in context.own_parameters.items():
                parameter.copy_(before[name] + self.factor * (parameter - before[name]))
