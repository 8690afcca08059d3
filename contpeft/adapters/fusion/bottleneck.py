"""Fusion at a site of bottleneck adapters (Pfeiffer et al., 2021, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import ACT2FN

from contpeft.adapters.attachment import Attachment
from contpeft.adapters.fusion.layer import Bottlenecks, FusionLayer, FusionOptions
from contpeft.adapters.fusion.members import Kept, chosen
from contpeft.adapters.fusion.source import OutputTap, output_taps
from contpeft.adapters.places import Place, paths_of
from contpeft.adapters.tuners.bottleneck import BottleneckLayer
from contpeft.adapters.tuners.joint import JointSite
from contpeft.errors import SpecError, UnsupportedError
from contpeft.spec import AdapterState

__all__ = ["BOTTLENECKS", "FusedBottleneck", "bottleneck_sites"]

# The methods whose adapters are a down-projection, an activation and an up-projection.
BOTTLENECKS: Final = ("houlsby", "parallel", "pfeiffer")


class FusedBottleneck(JointSite):
    """A site of the model with several bottleneck adapters around it, mixed by attention.

    What an adapter reads is what scores, unless a tap has something else.

    Args:
        site: the site with one adapter.
        layers: the site with each adapter that is mixed alone.
        options: what the fusion layer is made of.
        source: has what scores instead.

    Raises:
        UnsupportedError: if adapters differ in activation, or stand for what they read.
    """

    down: Tensor
    down_bias: Tensor
    up: Tensor
    up_bias: Tensor

    def __init__(
        self,
        site: BottleneckLayer,
        layers: Sequence[BottleneckLayer],
        options: FusionOptions,
        source: OutputTap | None = None,
    ) -> None:
        super().__init__(site)
        self._source = [] if source is None else [source]  # in a list, so that it is no child
        self._activation = ACT2FN[_activation(layers)]
        width = max(_linears(layer)[0].out_features for layer in layers)
        parts = [_padded(layer, width) for layer in layers]
        # Not part of the fusion's state: they are the members', which are stored already.
        for place, name in enumerate(("down", "down_bias", "up", "up_bias")):
            self.register_buffer(name, torch.stack([part[place] for part in parts]), persistent=False)
        self.fusion = FusionLayer(self.up.shape[1], options).to(self.up)

    def _added(self, z: Tensor) -> Tensor:
        count, narrow, wide = self.down.shape
        rows = z.reshape(len(z), -1, wide).to(self.down.dtype)
        hidden = self._activation(F.linear(rows, self.down.flatten(0, 1), self.down_bias.flatten()))
        adapters = Bottlenecks(hidden.reshape(*rows.shape[:2], count, narrow), self.up, self.up_bias)
        source = self._source[0].take().reshape(rows.shape).to(rows.dtype) if self._source else rows
        return self.fusion.folded(source, adapters, torch.zeros_like(rows)).reshape(z.shape).to(z.dtype)


def bottleneck_sites(
    model: nn.Module,
    states: Sequence[AdapterState],
    options: FusionOptions,
    kept: Kept | None = None,
) -> tuple[list[Place], list[Place], dict[str, FusedBottleneck]]:
    """Returns the places of a fusion, the model's own modules first, and the fused sites by their paths.

    Args:
        model: with no adapter installed.
        states: adapters of one method of :data:`BOTTLENECKS`.
        options: what the fusion layers are made of.
        kept: which of the adapters are mixed at a site, by its path; None for all at all of them.

    Raises:
        SpecError: if adapters change other places, or do not fit the model.
        UnsupportedError: if options or adapters cannot be fused.
    """
    if options.residual_before:
        raise UnsupportedError(
            "residual_before is for fusions over LoRA; bottleneck adapters are fused without"
        )
    kind, places = states[0].kind, _places(model, states)
    sites = {path: _layer(place) for path, (_, place) in places[0].items() if _is_site(place)}
    taps = output_taps(model, kind, sites) if options.query_before_ln else {}
    fused = {}
    for path, site in sites.items():
        layers = [_layer(each[path][1]) for each in chosen(places, kept, path)]
        fused[path] = FusedBottleneck(site, layers, options, taps[path][1] if taps else None)
    base = [own for own, _ in places[0].values()] + [own for own, _ in taps.values()]
    around = [layer._replace(module=fused.get(path, layer.module)) for path, (_, layer) in places[0].items()]
    return base, around + [own._replace(module=tap) for own, tap in taps.values()], fused


def _places(model: nn.Module, states: Sequence[AdapterState]) -> list[dict[str, tuple[Place, Place]]]:
    """Returns each adapter's places by their paths: with the model's own module, and with its layer."""
    attached = []
    for state in states:
        attached.append(Attachment.from_state(model, state))
        attached[-1].remove()
    paths = paths_of(model)
    places = [{paths[id(pair[0].module)]: pair for pair in each.places()} for each in attached]
    if any(each.keys() != places[0].keys() for each in places):
        raise SpecError(
            "the adapters change other places of the model; only those of the same places are fused"
        )
    return places


def _is_site(place: Place) -> bool:
    return isinstance(place.module, BottleneckLayer)


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
