"""How a term over many matrices becomes one number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

__all__ = ["Reduction", "reduced"]

Reduction = Literal["mean", "sum"]
"""``mean`` over all entries does not grow with layers, ranks and tasks; ``sum`` is what papers print."""


def reduced(terms: Sequence[Tensor], reduction: Reduction) -> Tensor:
    """Returns the sum, a scalar, or the mean over the entries of all ``terms``, of any shapes."""
    total = torch.stack([term.sum() for term in terms]).sum()
    return total if reduction == "sum" else total / sum(term.numel() for term in terms)
