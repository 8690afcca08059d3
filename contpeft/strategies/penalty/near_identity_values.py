"""Penalty: the value matrices of a fusion stay near the identity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from contpeft.adapters.fusion import FusionAttachment
from contpeft.strategies.about import About
from contpeft.strategies.context import Context

__all__ = ["NearIdentityValues"]


@dataclass(frozen=True)
class NearIdentityValues:
    """``0.01 ||I - W_v||_F^2`` over all value matrices, in the loss of the step it belongs to."""

    about: ClassVar[About] = About(paper="Pfeiffer et al. 2021, arXiv 2005.00247, section 3.2")

    def loss(self, context: Context, batch: Any, outputs: Any) -> Tensor:
        """Returns the regulariser, a scalar; 0 where it is turned off."""
        attachment = context.adapted.attachment
        if not isinstance(attachment, FusionAttachment):
            return torch.zeros((), device=context.adapted.device)
        return attachment.penalty()
