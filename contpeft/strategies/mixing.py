"""Features of rows that several adapters compute together, each with its weight."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from contpeft.adapters import AdaptedModel, Mixed, directions
from contpeft.spec import Base
from contpeft.strategies.features import Features
from contpeft.strategies.sureness import likeliest

__all__ = ["arrow_features", "mixed_features"]


def mixed_features(
    adapted: AdaptedModel, features: Features, mixed: Mixed, inputs: Sequence[Any], weights: Tensor
) -> Tensor:
    """Returns the features ``(n, d)`` of rows, each through its own weighted sum of the adapters.

    Args:
        adapted: the model.
        features: computes features in batches.
        mixed: the adapters.
        inputs: raw inputs.
        weights: ``(n, N)``, of each adapter for each row.

    Raises:
        UnsupportedError: if an adapter changes embeddings.
    """
    by_row = weights.to(adapted.device, torch.float32)

    def compute(rows: slice) -> Tensor:
        with (
            adapted.applied(Base()),
            mixed.stack.weighed(adapted.model, lambda _module, _x: by_row[rows, None]),
        ):
            return features.current(inputs[rows])

    return torch.cat([compute(rows) for rows in _cut(len(inputs), features.batch_size)])


def arrow_features(
    adapted: AdaptedModel, features: Features, mixed: Mixed, inputs: Sequence[Any], how: tuple[int, float]
) -> Tensor:
    """Returns the features ``(n, d)`` of rows, every token in every layer through adapters of its own.

    Args:
        adapted: the model.
        features: computes features in batches.
        mixed: the adapters.
        inputs: raw inputs.
        how: how many adapters are mixed at most, and at which temperature.

    Raises:
        UnsupportedError: if an adapter changes embeddings.
    """
    top, temperature = how
    prototypes = {module: directions(*mixed.stack.factors(module)) for module in mixed.stack.modules}

    def weigh(module: str, x: Tensor) -> Tensor:
        return likeliest((x @ prototypes[module].T).abs(), top, temperature)

    with adapted.applied(Base()), mixed.stack.weighed(adapted.model, weigh):
        return features.current(inputs)


def _cut(count: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))
