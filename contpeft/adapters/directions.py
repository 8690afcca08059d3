"""LoRA over directions of its own past: each of them stays, how far the model goes along it is learnt.

A LoRA of rank ``r_1 + ... + r_t`` holds in its first columns and rows what earlier tasks have learnt, as
products ``B_i A_i`` of unit factors and a magnitude ``m_i`` each. The factors are buffers, the magnitudes
parameters, and the last block is an ordinary LoRA. What is stored of it is the plain LoRA that they make up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from contpeft.adapters.attached import Attached
from contpeft.adapters.attachment import Attachment
from contpeft.adapters.factors import Factors, live_factors
from contpeft.adapters.principal import Assembled
from contpeft.errors import SpecError

__all__ = ["Directions", "directions_of", "learn_magnitudes"]

_ROUNDING = 1e-6


@dataclass(frozen=True)
class Directions:
    """Unit directions of one linear layer, one a task, with their magnitudes.

    Attributes:
        down: ``(r_1 + ... + r_k, d_in)``; each task's rows have Frobenius norm 1.
        up: ``(d_out, r_1 + ... + r_k)``; so have each task's columns, or are 0 where its magnitude is.
        magnitudes: ``(k,)``, Frobenius norms of ``B_i`` and ``A_i`` times the adapter's scale: what the
            product of the unit factors is multiplied by.
        ranks: ``r_1, ..., r_k``.
    """

    down: Tensor
    up: Tensor
    magnitudes: Tensor
    ranks: tuple[int, ...]


def directions_of(factors: Factors, ranks: Sequence[int]) -> Directions:
    """Returns the directions in stored factors, in their order.

    Rows that have norm 1 already keep every bit; columns do up to rounding.

    Args:
        factors: of the whole stored adapter.
        ranks: how many rows each direction has.

    Raises:
        SpecError: if the factors have more or fewer rows than that.
    """
    if sum(ranks) != len(factors.down):
        raise SpecError(
            f"the last adapter has rank {len(factors.down)}, its directions would have {sum(ranks)}; "
            "go on with the ranks it was learnt with, or under another name"
        )
    downs, ups, magnitudes = [], [], []
    pairs = zip(
        factors.down.split_with_sizes(list(ranks)), factors.up.split_with_sizes(list(ranks), 1), strict=True
    )
    for down, up in pairs:
        norms = [float(each.double().norm()) for each in (down, up)]
        downs.append(down if abs(norms[0] - 1) < _ROUNDING else down / norms[0])
        ups.append(up / norms[1] if norms[1] > 0 else up)
        magnitudes.append(norms[0] * norms[1] * factors.scale)
    return Directions(torch.cat(downs), torch.cat(ups, 1), torch.tensor(magnitudes), tuple(ranks))


def learn_magnitudes(model: nn.Module, attached: Attached, directions: Mapping[str, Directions]) -> None:
    """Puts directions into a fresh LoRA that has room for them; their magnitudes are trained with the rest.

    Args:
        model: in which it is installed.
        attached: a LoRA whose rank is theirs and that of what is to be learnt.
        directions: by the dotted path of the module.

    Raises:
        SpecError: if it does not change the very modules that there are directions for.
        UnsupportedError: if it is no LoRA of linear layers.
    """
    different = sorted({*directions} ^ {*live_factors(attached, "learning magnitudes")})
    if different or not isinstance(attached, Attachment):
        raise SpecError(
            f"the fresh adapter and the last one change different modules: {', '.join(different)}; "
            "keep one adapter under one name"
        )
    for path, own in directions.items():
        layer: Any = model.get_submodule(path)
        (slot,) = layer.lora_A
        down, up = layer.lora_A[slot], layer.lora_B[slot]
        after, beside = _After(own.down.to(down.weight)), _Beside(own, up.weight, layer.scaling[slot])
        with torch.no_grad():
            down.weight[: len(own.down)] = after.frozen
            up.weight[:, : len(own.down)] = beside.earlier()
        parametrize.register_parametrization(down, "weight", after)
        parametrize.register_parametrization(up, "weight", beside)
    attached.settle_trainable()


class _After(Assembled):
    """Puts trained rows after those that stay."""

    frozen: Tensor

    def __init__(self, frozen: Tensor) -> None:
        super().__init__()
        self.register_buffer("frozen", frozen)

    def forward(self, trained: Tensor) -> Tensor:
        return torch.cat([self.frozen, trained])

    def right_inverse(self, whole: Tensor) -> Tensor:
        frozen, trained = whole.detach().tensor_split([len(self.frozen)])
        self.frozen = frozen.clone()
        return trained.clone()


class _Beside(Assembled):
    """Puts trained columns beside unit ones that are multiplied by their direction's magnitude."""

    unit: Tensor
    block: Tensor

    def __init__(self, directions: Directions, like: Tensor, scale: float) -> None:
        super().__init__()
        self.ranks, self.scale = list(directions.ranks), scale
        ranks = torch.tensor(self.ranks)
        self.magnitudes = nn.Parameter(directions.magnitudes.to(like))
        self.register_buffer("unit", directions.up.to(like))
        self.register_buffer("block", torch.arange(len(ranks)).repeat_interleave(ranks).to(like.device))

    def forward(self, trained: Tensor) -> Tensor:
        return torch.cat([self.earlier(), trained], 1)

    def earlier(self) -> Tensor:
        """Returns the columns of earlier directions."""
        return self.unit * (self.magnitudes / self.scale)[self.block]

    def right_inverse(self, whole: Tensor) -> Tensor:
        earlier, trained = whole.detach().tensor_split([self.unit.shape[1]], dim=1)
        norms = torch.stack([each.norm() for each in earlier.split_with_sizes(self.ranks, 1)])
        self.magnitudes.data = norms * self.scale
        self.unit = torch.where(norms[self.block] > 0, earlier / norms[self.block], self.unit)
        return trained.clone()
