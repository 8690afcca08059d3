"""Dense float64 answers to what the package computes from factors, and updates to ask about."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from contpeft.merging import Update

Dense = NDArray[np.float64]


def factors(seed: int, rank: int, shape: tuple[int, int] = (12, 9)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    b = torch.randn(shape[0], rank, generator=generator, dtype=torch.float64)
    return b, torch.randn(rank, shape[1], generator=generator, dtype=torch.float64)


def regauged(b: Tensor, a: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Returns other factors of the same product, of condition about 10."""
    generator = torch.Generator().manual_seed(seed)
    u, _ = torch.linalg.qr(torch.randn(b.shape[1], b.shape[1], generator=generator, dtype=torch.float64))
    gauge = u * torch.linspace(0.3, 3, b.shape[1], dtype=torch.float64)
    return b @ gauge, torch.linalg.solve(gauge, a)


def dense(update: Update) -> Dense:
    return np.asarray((update.u * update.s) @ update.v.T)


def product(b: Tensor, a: Tensor) -> Dense:
    return np.asarray(b.double() @ a.double())
