"""Features of classes, for statistics of them."""

from __future__ import annotations

import torch
from torch import Tensor


def rows(seed: int, n: int, classes: int, width: int, noise: float = 1.0) -> tuple[Tensor, list[str]]:
    """Returns features about a centre a class, and their labels."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, width, generator=generator, dtype=torch.float64)
    labels = [n % classes for n in range(n)]
    noises = noise * torch.randn(n, width, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(centres[labels] + noises, dim=1), ["abcdef"[each] for each in labels]
