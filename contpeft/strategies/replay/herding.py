"""The order in which rows stand for the mean of their class best."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["herding_order"]


def herding_order(features: Tensor) -> list[int]:
    """Returns rows so that the mean of the first ``k`` is near the mean of all, for every ``k``, greedily.

    Rebuffi et al. 2017, "iCaRL", algorithm 4: features of unit length; row ``k`` is the one with which the
    mean of the first ``k`` comes nearest to the class mean. Ties go to the row that comes first.

    Args:
        features: ``(n, d)`` of one class.
    """
    unit = F.normalize(features.double(), dim=1)
    mean, chosen = unit.mean(0), torch.zeros_like(unit[0])
    free = torch.ones(len(unit), dtype=torch.bool)
    order: list[int] = []
    for k in range(1, len(unit) + 1):
        distances = (mean - (chosen + unit) / k).square().sum(1)
        best = int(distances.masked_fill(~free, torch.inf).argmin())
        free[best] = False
        chosen = chosen + unit[best]
        order.append(best)
    return order
