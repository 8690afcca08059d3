"""Fusion at a site of bottleneck adapters (Pfeiffer et al., 2021, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import ACT2FN

from contpeft.adapters.attachment import Attachment
from contpeft.adapters.fusion.layer import Bottlenecks, FusionLayer, FusionOptions
from contpeft.adapters.places import Place
from contpeft.adapters.tuners.bottleneck import BottleneckLayer, Site
from contpeft.adapters.tuners.flows import FLOWS, Add
from contpeft.errors import SpecError, UnsupportedError
from contpeft.spec import AdapterState

__all__ = ["BOTTLENECKS", "FusedBottleneck", "bottleneck_sites"]

# The methods whose adapters are a down-projection, an activation and an up-projection.
BOTTLENECKS: Final = ("houlsby", "parallel", "pfeiffer")


class FusedBottleneck(nn.Module):
    """A site of the model with several bottleneck adapters around it, mixed by attention.

    What an adapter reads is what scores; what flows past the adapters does so as with a single one.

    Args:
        layers: the site with each adapter alone.
        options: what the fusion layer is made of.

    Raises:
        UnsupportedError: if adapters differ in activation, or stand for what they read.
    """

    below: tuple[Site, ...] = ()
    down: Tensor
    down_bias: Tensor
    up: Tensor
    up_bias: Tensor

    def __init__(self, layers: Sequence[BottleneckLayer], options: FusionOptions) -> None:
        super().__init__()
        first = layers[0]
        self.base_layer = first.base_layer
        self.flow, self._first = first.flow, [first]  # in a list, so that it is no child
        self._activation = ACT2FN[_activation(layers)]
        width = max(_linears(layer)[0].out_features for layer in layers)
        parts = [_padded(layer, width) for layer in layers]
        # Not part of the fusion's state: they are the members', which are stored already.
        for place, name in enumerate(("down", "down_bias", "up", "up_bias")):
            self.register_buffer(name, torch.stack([part[place] for part in parts]), persistent=False)
        self.fusion = FusionLayer(self.up.shape[1], options).to(self.up)

    def forward(self, *inputs: Any) -> Tensor:
        """Returns what the site computes; see :mod:`contpeft.adapters.tuners.flows`."""
        return FLOWS[self.flow](self.base_layer, self.adds(), self.residual(), *inputs)

    def residual(self) -> Tensor | None:
        """Returns what the normalisation beside the site was given, where the flow needs it."""
        for site in self.below:
            site.residual()
        return self._first[0].residual()

    def adds(self) -> list[Add]:
        """Returns what the fused adapters add, those of the sites below first."""
        return [*(add for site in self.below for add in site.adds()), self._added]

    def _added(self, z: Tensor) -> Tensor:
        """Returns what the adapters add together, of the shape and type of what they read."""
        count, narrow, wide = self.down.shape
        rows = z.reshape(len(z), -1, wide).to(self.down.dtype)
        hidden = self._activation(F.linear(rows, self.down.flatten(0, 1), self.down_bias.flatten()))
        adapters = Bottlenecks(hidden.reshape(*rows.shape[:2], count, narrow), self.up, self.up_bias)
        return self.fusion.folded(rows, adapters, torch.zeros_like(rows)).reshape(z.shape).to(z.dtype)


def bottleneck_sites(
    model: nn.Module, states: Sequence[AdapterState], options: FusionOptions
) -> tuple[list[Place], list[Place], dict[str, FusedBottleneck]]:
    """Returns the places of a fusion, the model's own modules first, and the fused sites by their paths.

    Args:
        model: with no adapter installed.
        states: adapters of one method of :data:`BOTTLENECKS`.
        options: what the fusion layers are made of.

    Raises:
        SpecError: if adapters change other places, or do not fit the model.
        UnsupportedError: if options or adapters cannot be fused.
    """
    if options.residual_before:
        raise UnsupportedError(
            "residual_before is for fusions over LoRA; bottleneck adapters are fused without"
        )
    attached = []
    for state in states:
        attached.append(Attachment.from_state(model, state))
        attached[-1].remove()
    paths = {id(module): path for path, module in model.named_modules()}
    places = [{paths[id(base.module)]: layer for base, layer in each.places()} for each in attached]
    if any(each.keys() != places[0].keys() for each in places):
        raise SpecError(
            "the adapters change other places of the model; only those of the same places are fused"
        )
    fused = {
        path: FusedBottleneck([_layer(each[path]) for each in places], options)
        for path, place in places[0].items()
        if isinstance(place.module, BottleneckLayer)
    }
    layers = [place._replace(module=fused.get(path, place.module)) for path, place in places[0].items()]
    return [base for base, _ in attached[0].places()], layers, fused


def _layer(place: Place) -> BottleneckLayer:
    if not isinstance(place.module, BottleneckLayer):
        raise SpecError(f"{place.name!r} has an adapter in one version and none in another")
    return place.module


def _activation(layers: Sequence[BottleneckLayer]) -> str:
    settings = [next(iter(layer.settings.values())) for layer in layers]
    for each in settings:
        if not getattr(each, "residual", True):
            raise UnsupportedError("an adapter with residual=False stands for what it reads; it is not fused")
    found = sorted({each.non_linearity for each in settings})
    if len(found) > 1:
        raise UnsupportedError(f"the adapters have activations {', '.join(found)}; only equal ones are fused")
    return found[0]


def _linears(layer: BottleneckLayer) -> tuple[nn.Linear, nn.Linear]:
    down, up = (next(iter(parts.values())) for parts in (layer.bottleneck_down, layer.bottleneck_up))
    if not (isinstance(down, nn.Linear) and isinstance(up, nn.Linear)):
        raise UnsupportedError("the adapters' projections are no plain matrices; they are not fused")
    return down, up


def _padded(layer: BottleneckLayer, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns both projections and their biases, scaling included, filled up to one bottleneck."""
    down, up = _linears(layer)
    settings = next(iter(layer.settings.values()))
    learned = settings.scaling == "learned"
    scale = next(iter(layer.bottleneck_scaling.values())).detach() if learned else float(settings.scaling)
    missing = width - down.out_features
    return (
        F.pad(down.weight.detach(), (0, 0, 0, missing)),
        F.pad(down.bias.detach(), (0, missing)),
        F.pad(up.weight.detach() * scale, (0, missing)),
        up.bias.detach() * scale,
    )
