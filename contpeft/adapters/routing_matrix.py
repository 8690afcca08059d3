"""LoRA with a square matrix between its factors: what is learnt is how its directions are connected.

``dW = s B (R_old + R_new) A``: the columns of ``B`` and the rows of ``A`` are orthonormal and stay, ``R_old``
is what was learnt before, and ``R_new`` alone is trained. In such bases products of routing matrices have the
norms of products of updates. What is stored is the plain LoRA that they make up, ``(B, (R_old + R_new) A)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from contpeft.adapters.attached import Attached
from contpeft.adapters.attachment import Attachment
from contpeft.adapters.factors import Factors, LiveFactors, live_factors
from contpeft.adapters.principal import Assembled
from contpeft.errors import SpecError, UnsupportedError

__all__ = [
    "RoutingMatrix",
    "SharedBases",
    "check_room_for_bases",
    "learn_routing",
    "routing_matrices",
    "shared_bases",
]


class SharedBases(NamedTuple):
    """The update ``s up @ diag(routing) @ down`` of one linear layer.

    Attributes:
        down: ``A``, ``(r, d_in)``, rows orthonormal.
        up: ``B``, ``(d_out, r)``, columns orthonormal.
        routing: ``(r,)``, the diagonal of ``R_old``: no entry is negative, and they go down.
    """

    down: Tensor
    up: Tensor
    routing: Tensor


class RoutingMatrix(NamedTuple):
    """What connects the bases of one linear layer while a task is learnt.

    Attributes:
        old: ``R_old``, ``(r, r)``, which stays.
        new: ``R_new``, ``(r, r)``, which is trained.
    """

    old: Tensor
    new: nn.Parameter


def check_room_for_bases(factors: Factors | LiveFactors, module: str) -> None:
    """Checks that a linear layer has as many directions as its factors have rows.

    Args:
        factors: of the layer.
        module: names it in the error.

    Raises:
        UnsupportedError: if not.
    """
    rank, narrow = len(factors.down), min(factors.down.shape[1], len(factors.up))
    if rank > narrow:
        raise UnsupportedError(
            f"{module!r} has {narrow} directions, fewer than the rank {rank} of its factors; "
            f"give a rank of {narrow} at most"
        )


def shared_bases(factors: Factors) -> SharedBases:
    """Returns the singular value decomposition of ``up @ down``, all ``r`` directions of it.

    Where the product has a lower rank, the directions that it lacks are others of the factors' own spaces.

    Args:
        factors: of one linear layer; their scale is left out.
    """
    up, right = torch.linalg.qr(factors.up.double())
    down, left = torch.linalg.qr(factors.down.double().T)
    u, s, vh = torch.linalg.svd(right @ left.T)
    return SharedBases((vh @ down.T).to(factors.down), (up @ u).to(factors.up), s.to(factors.down))


def learn_routing(model: nn.Module, attached: Attached, bases: Mapping[str, SharedBases]) -> None:
    """Puts shared bases into an attached LoRA of their rank; matrices between them are all that is trained.

    Args:
        model: in which it is installed.
        attached: the LoRA whose bases they are.
        bases: by the dotted path of the module.

    Raises:
        SpecError: if it does not change the very modules that there are bases for.
        UnsupportedError: if it is no LoRA of linear layers.
    """
    different = sorted({*bases} ^ {*live_factors(attached, "learning a routing matrix")})
    if different or not isinstance(attached, Attachment):
        raise SpecError(f"the adapter and its bases change different modules: {', '.join(different)}")
    for path, own in bases.items():
        layer: Any = model.get_submodule(path)
        (slot,) = layer.lora_A
        down, up = layer.lora_A[slot], layer.lora_B[slot]
        parametrize.register_parametrization(down, "weight", _Between(own, down.weight))
        made: Any = down.parametrizations
        with torch.no_grad():
            made.weight.original.zero_()
            up.weight.copy_(own.up)
        up.weight.requires_grad_(False)
    attached.settle_trainable()


def routing_matrices(attached: Attached) -> list[RoutingMatrix]:
    """Returns the routing matrices of an attached adapter, layer by layer; none if it has none."""
    places = attached.places() if isinstance(attached, Attachment) else []
    layers: list[Any] = [layer for _, place in places for layer in place.module.modules()]
    made = [layer.parametrizations.weight for layer in layers if parametrize.is_parametrized(layer, "weight")]
    return [RoutingMatrix(each[0].old, each.original) for each in made if isinstance(each[0], _Between)]


class _Between(Assembled):
    """Makes ``(R_old + R_new) A`` of the trained ``R_new``."""

    old: Tensor
    basis: Tensor

    def __init__(self, bases: SharedBases, like: Tensor) -> None:
        super().__init__()
        self.register_buffer("old", bases.routing.to(like).diag())
        self.register_buffer("basis", bases.down.to(like))

    def forward(self, new: Tensor) -> Tensor:
        return (self.old + new) @ self.basis

    def right_inverse(self, whole: Tensor) -> Tensor:
        return whole.detach() @ self.basis.T - self.old
