"""Random numbers that depend on what they are for, and on nothing that happened before.

A counter-based generator (Philox; Salmon et al., 2011) is keyed by the seed, the tensor and the adapter, so
that a mask is the same whatever the order of modules, the number of threads, and whatever else is merged.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from contpeft.digest import json_digest

__all__ = ["keep_mask", "raw_integers"]


def raw_integers(n: int, *key: str | int) -> NDArray[np.uint64]:
    """Returns ``n`` uniform 64-bit integers, ``(n,)``, a function of ``key`` alone."""
    return np.random.Philox(key=int(json_digest(list(key))[:32], 16)).random_raw(n)


def keep_mask(probability: Tensor, *key: str | int) -> Tensor:
    """Returns which entries are kept, each with its own probability.

    Args:
        probability: of keeping each entry, 0 to 1, any shape.
        key: what the draw is for.

    Returns:
        A boolean mask of that shape.
    """
    # Compared as integers of 53 bits, which a float64 holds exactly.
    drawn = torch.from_numpy((raw_integers(probability.numel(), *key) >> np.uint64(11)).astype(np.float64))
    return drawn.reshape(probability.shape) < probability.double() * 2.0**53
