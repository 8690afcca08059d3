"""Features of several layers of an encoder, each pooled as the last one is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.nn import functional as F

from contpeft.adapters.model import AdaptedModel
from contpeft.adapters.trunk import Trunk

__all__ = ["layer_features", "trunk_of"]


def layer_features(adapted: AdaptedModel, encode: Callable[[], Tensor], count: int) -> Tensor:
    """Returns features of the last layers side by side, each of unit length, ``(B, count d)``, on the CPU.

    The model runs once. Then each state goes through what comes after the layers (a last norm, the pooling
    of ``encode``) as if it were that of the last layer, so whoever pools need not know.

    Args:
        adapted: the model, its adapter in place.
        encode: computes features ``(B, d)`` of one batch by calling the model.
        count: how many layers, from the top; all of a model that has no more.

    Raises:
        UnsupportedError: if it is no encoder whose layers are known.
    """
    trunk = trunk_of(adapted)
    states: dict[int, Tensor] = {}
    lower = range(max(0, len(trunk.layers) - count), len(trunk.layers) - 1)
    # What a prefix cache skips it does not tell; it may skip what lies below the adapter.
    whole = trunk.unskipped() if lower.start < trunk.depth() else nullcontext()
    with whole, trunk.watched(states):
        last = encode()
    found = []
    for layer in lower:
        with trunk.entered(len(trunk.layers), states[layer]):
            found.append(encode())
    return torch.cat([F.normalize(each.cpu().double(), dim=1) for each in (*found, last)], 1)


def trunk_of(adapted: AdaptedModel) -> Trunk:
    """Returns the encoder below an adapter.

    Raises:
        UnsupportedError: if its layers are not known.
    """
    if adapted.attachment is None:
        return Trunk(adapted.model)
    with adapted.attachment.removed():
        return Trunk(adapted.model)
