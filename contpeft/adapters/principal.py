"""LoRA that starts at the base's own directions while the base keeps every bit.

PiSSA and OLoRA start the factors at factors ``B0 A0`` of the weight and take their product out of it. Here
a second, frozen half of the adapter takes it out: ``W + s (B A - B0 A0)`` is a LoRA of twice the rank, with
factors ``[B, -B0]`` and ``[A; A0]``, and the same function of ``A`` and ``B``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, Final, cast

import torch
from peft.tuners.lora.layer import LoraLayer
from peft.utils.integrations import dequantize_module_weight
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers.pytorch_utils import Conv1D

from contpeft.errors import SpecError

__all__ = [
    "Assembled",
    "Factors",
    "halve",
    "linear_weight",
    "olora_factors",
    "paired_weights",
    "pissa_factors",
    "start_at",
]

Factors = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""Maps a weight ``(out, in)`` and a rank to factors ``B (out, r)`` and ``A (r, in)``."""

_PAIR: Final = (("lora_A", 0), ("lora_B", 1))  # the factors, and along which dimension their rank is


def pissa_factors(weight: Tensor, rank: int, niter: int | None = None) -> tuple[Tensor, Tensor]:
    """Returns the principal singular directions of a weight (Meng et al., 2024, section 3).

    Args:
        weight: ``(out, in)``.
        rank: how many directions.
        niter: iterations of the fast randomised decomposition, whose random numbers are always the same;
            None for the exact one.

    Returns:
        ``U sqrt(S)`` of shape ``(out, rank)`` and ``sqrt(S) V^T`` of shape ``(rank, in)``.
    """
    if niter is None:
        u, s, vh = torch.linalg.svd(weight, full_matrices=False)
    else:
        with torch.random.fork_rng(devices=[weight.device] if weight.is_cuda else []):
            torch.manual_seed(0)
            u, s, v = torch.svd_lowrank(weight, rank, niter=niter)
        vh = v.mT
    root = s[:rank].sqrt()
    return u[:, :rank] * root, root[:, None] * vh[:rank]


def olora_factors(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Returns the first columns of ``Q`` and rows of ``R`` of a weight (Büyükakyüz, 2024, section 3).

    Args:
        weight: ``(out, in)``.
        rank: how many.

    Returns:
        ``Q`` of shape ``(out, rank)`` and ``R`` of shape ``(rank, in)``.
    """
    q, r = torch.linalg.qr(weight)
    return q[:, :rank], r[:rank]


def start_at(layers: Iterable[tuple[str, nn.Module]], factors: Factors, *, divide: bool) -> None:
    """Starts LoRA layers of twice the rank at factors of the weights they are around.

    Args:
        layers: each with its name, for messages.
        factors: of a weight.
        divide: whether the factors' product is divided by the scaling, so that scaled it is a part of the
            weight itself.

    Raises:
        SpecError: if a layer is not around a matrix, or the rank is higher than the matrix has.
    """
    for name, layer in layers:
        weight = _weight(name, layer)
        parts: Any = layer
        for slot in _slots(layer):
            rank = parts.r[slot] // 2
            if rank > min(weight.shape):
                raise SpecError(
                    f"rank {rank} is more than the weight of {name!r} has, {tuple(weight.shape)}; "
                    f"give r={min(weight.shape)} or less"
                )
            b, a = factors(weight, rank)
            root = parts.scaling[slot] ** 0.5 if divide else 1.0
            _set(parts.lora_A[slot].weight, torch.cat([a, a]) / root)
            _set(parts.lora_B[slot].weight, torch.cat([b, -b], dim=1) / root)


def halve(layers: Iterable[tuple[str, nn.Module]]) -> None:
    """Freezes the second half of the rank of LoRA layers; only the first is a parameter from now on."""
    for _, layer in layers:
        for slot in _slots(layer):
            for factor, dim in _PAIR:
                parametrize.register_parametrization(
                    getattr(layer, factor)[slot], "weight", _WithFrozenHalf(dim)
                )


def paired_weights(model: nn.Module) -> dict[str, nn.Module]:
    """Returns the modules whose weight has frozen parts, under their weights' names in a state dict."""
    return {
        f"{name}.weight": module
        for name, module in model.named_modules()
        if parametrize.is_parametrized(module, "weight")
        and isinstance(module.parametrizations.weight[0], Assembled)
    }


class Assembled(nn.Module, ABC):
    """Makes a weight of the part that is trained and of others."""

    @abstractmethod
    def forward(self, trained: Tensor) -> Tensor:
        """Returns the whole weight."""

    @abstractmethod
    def right_inverse(self, whole: Tensor) -> Tensor:
        """Takes a whole weight apart; returns what is trained of it."""


class _WithFrozenHalf(Assembled):
    """Puts a frozen half behind a trained one along a dimension."""

    frozen: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer("frozen", torch.empty(0))

    def forward(self, trained: Tensor) -> Tensor:
        return torch.cat([trained, self.frozen], dim=self.dim)

    def right_inverse(self, whole: Tensor) -> Tensor:
        trained, frozen = whole.detach().chunk(2, dim=self.dim)
        self.frozen = frozen.clone()
        return trained.clone()


def _slots(layer: Any) -> list[str]:
    return list(layer.lora_A)


def linear_weight(name: str, base: nn.Module) -> Tensor:
    """Returns the weight of a linear layer, quantised or not, ``(out, in)`` in single precision.

    Args:
        name: of the layer, for messages.
        base: the layer, with nothing around it.

    Raises:
        SpecError: if it is none, or its weight cannot be read.
    """
    if not isinstance(base, nn.Linear | Conv1D):
        raise SpecError(
            f"{name!r} is a {type(base).__name__}, and the start is made of a linear layer's weight; "
            "leave it out of targets, or use method 'lora'"
        )
    try:
        weight = cast(Tensor, dequantize_module_weight(base)).detach().float()
    except AttributeError as error:  # bitsandbytes makes the scales of 8-bit weights in the first pass
        raise SpecError(
            f"the weight of {name!r} ({type(base).__name__}) cannot be read; run the model once before, load "
            "its base in 4 bits, or use method 'lora'"
        ) from error
    return weight.T if isinstance(base, Conv1D) else weight


def _weight(name: str, layer: nn.Module) -> Tensor:
    """Returns the weight a LoRA layer is around, ``(out, in)`` in single precision."""
    around = isinstance(layer, LoraLayer) and len(layer.lora_A)
    return linear_weight(name, cast(LoraLayer, layer).get_base_layer() if around else layer)


def _set(parameter: Tensor, value: Tensor) -> None:
    with torch.no_grad():
        parameter.copy_(value)
