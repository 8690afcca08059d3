"""Fusion at a linear layer, over LoRA adapters.

New beside Pfeiffer et al. (2021), who fuse bottleneck adapters: a LoRA adapter ``B A`` is a bottleneck
without an activation, so that the folded form of a fusion layer serves it as it is. The layer's own output
scores and is the residual.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from contpeft.adapters.fusion.layer import Bottlenecks, FusionLayer, FusionOptions
from contpeft.adapters.fusion.members import Kept
from contpeft.adapters.places import Place
from contpeft.adapters.stacked import StackedLora
from contpeft.errors import SpecError, UnsupportedError
from contpeft.spec import AdapterState

__all__ = ["FusedLinear", "linear_sites"]


class FusedLinear(nn.Module):
    """A linear layer and several LoRA adapters of it, mixed by attention.

    Args:
        base_layer: the model's own layer.
        a: ``(N, r, d_in)``.
        b: ``(N, d_out, r)``, scaling included.
        options: what the fusion layer is made of.
    """

    a: Tensor
    b: Tensor

    def __init__(self, base_layer: nn.Module, a: Tensor, b: Tensor, options: FusionOptions) -> None:
        super().__init__()
        self.base_layer = base_layer
        # Not part of the fusion's state: they are the members', which are stored already.
        self.register_buffer("a", a, persistent=False)
        self.register_buffer("b", b, persistent=False)
        self.fusion = FusionLayer(b.shape[1], options).to(b)

    def forward(self, x: Tensor) -> Tensor:
        """Returns what the layer says and the mixture of what the adapters add, ``(B, ..., d_out)``."""
        said: Tensor = self.base_layer(x)
        count, rank = self.a.shape[:2]
        hidden = F.linear(x.to(self.a.dtype), self.a.flatten(0, 1))
        hidden = hidden.reshape(*hidden.shape[:-1], count, rank)
        adapters = Bottlenecks(_positions(hidden, 4), self.b, self.b.new_zeros(self.b.shape[:2]))
        residual = _positions(said, 3).to(self.b.dtype)
        mixed = self.fusion.folded(residual, adapters, residual)
        return mixed.reshape(said.shape).to(said.dtype)


def linear_sites(
    model: nn.Module,
    states: Sequence[AdapterState],
    options: FusionOptions,
    kept: Kept | None = None,
) -> tuple[list[Place], list[Place], dict[str, FusedLinear]]:
    """Returns the places of a fusion, the model's own modules first, and the fused sites by their paths.

    Args:
        model: with no adapter installed.
        states: LoRA adapters, of any mix of ranks and modules.
        options: what the fusion layers are made of.
        kept: which of the adapters are mixed at a layer, by its path; None for all at all that any changes.

    Raises:
        SpecError: if the adapters do not fit the model.
        UnsupportedError: if one is no LoRA adapter of linear layers, or options cannot be fused with.
    """
    if options.query_before_ln:
        raise UnsupportedError(
            "query_before_ln is for fusions over pfeiffer adapters; over LoRA what the layer says scores: "
            "leave it out"
        )
    stack = StackedLora(states)
    base = {path: _place(model, path) for path in (stack.modules if kept is None else kept)}
    fused = {
        path: FusedLinear(place.module, *_factors(stack, kept, path, place.module), options)
        for path, place in base.items()
    }
    return list(base.values()), [base[path]._replace(module=site) for path, site in fused.items()], fused


def _factors(stack: StackedLora, kept: Kept | None, path: str, layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Returns the factors of the adapters that are mixed at a layer, filled up to their largest rank."""
    if kept is None:
        return stack.factors(path)
    places = list(kept[path])
    if path not in stack.modules:  # only adapters that were dropped changed this layer: nothing is mixed
        d_in, d_out = _widths(layer)
        return torch.zeros(len(places), 0, d_in), torch.zeros(len(places), d_out, 0)
    a, b = (factor[places] for factor in stack.factors(path))
    used = a.any(2).any(0)
    return a[:, used], b[:, :, used]


def _widths(layer: nn.Module) -> tuple[int, int]:
    """Returns how wide what a layer reads and what it says is."""
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    assert isinstance(layer, Conv1D)
    return layer.nx, layer.nf


def _place(model: nn.Module, path: str) -> Place:
    parent, _, name = path.rpartition(".")
    try:
        place = Place(model.get_submodule(parent), name, model.get_submodule(path))
    except AttributeError as error:
        raise SpecError(
            f"the adapters change {path!r}, which {type(model).__name__} does not have"
        ) from error
    if not isinstance(place.module, nn.Linear | Conv1D):
        raise UnsupportedError(f"{path!r} is a {type(place.module).__name__}; fusion is over linear layers")
    return place


def _positions(values: Tensor, dimensions: int) -> Tensor:
    """Returns values with rows first and all positions in one dimension."""
    missing = dimensions - values.ndim
    if missing > 0:
        return values.unsqueeze(1)
    return values.flatten(1, 1 - missing) if missing < 0 else values
