"""Several bottleneck adapters of one place, their outputs added up with weights."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from contpeft.adapters.attachment import Attachment
from contpeft.adapters.places import Place
from contpeft.adapters.tuners.bottleneck import BottleneckLayer
from contpeft.adapters.tuners.joint import JointSite

__all__ = ["SummedBottleneck", "summed_sites"]


class SummedBottleneck(JointSite):
    """A site of the model with several bottleneck adapters around it, all reading the same.

    Args:
        layers: the site with each adapter alone.
        weights: what the output of each is multiplied by.
    """

    def __init__(self, layers: Sequence[BottleneckLayer], weights: Sequence[float]) -> None:
        super().__init__(layers[0])
        self._terms = list(zip(layers, weights, strict=True))  # in a list, so that they are no children

    def _added(self, z: Tensor) -> Tensor:
        # Each layer is alone: it has no site below it, so its last term is all it adds.
        terms = [layer.adds()[-1](z) * weight for layer, weight in self._terms]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total


def summed_sites(attached: Sequence[Attachment], weights: Sequence[float]) -> list[tuple[Place, Place]]:
    """Returns each place of a weighted sum: with the model's own module, and with the layer around it.

    Args:
        attached: bottleneck adapters of one method, made for the model and taken out.
        weights: one for each.
    """
    found: dict[int, tuple[Place, list[tuple[Place, float]]]] = {}
    for each, weight in zip(attached, weights, strict=True):
        for base, layer in each.places():
            found.setdefault(id(base.module), (base, []))[1].append((layer, weight))
    return [(base, _site(base, layers)) for base, layers in found.values()]


def _site(base: Place, layers: Sequence[tuple[Place, float]]) -> Place:
    sites = [(place.module, weight) for place, weight in layers if isinstance(place.module, BottleneckLayer)]
    if not sites:
        return layers[0][0]  # a tap: one is enough for all
    return base._replace(module=SummedBottleneck(*zip(*sites, strict=True)))
