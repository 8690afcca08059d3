"""Layers that are put into a model in the place of others and taken out again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from torch import nn

from contpeft.adapters.attached import Attached

__all__ = ["Place", "Places", "fill", "paths_of", "set_mode"]


class Place(NamedTuple):
    """A place in the model: the module that holds it, its name there, and what sits in it."""

    parent: nn.Module
    name: str
    module: nn.Module

    def now(self) -> Place:
        """Returns the place with what sits in it now."""
        return self._replace(module=getattr(self.parent, self.name))

    def fill(self) -> None:
        """Puts the module into its place."""
        setattr(self.parent, self.name, self.module)


class Places(Attached):
    """Layers around modules of a model; made installed.

    Taking them out puts the very same modules back, so that the model is restored exactly, and costs what the
    number of places does, never what was there before.

    Args:
        base: the places with the model's own modules.
        layers: the same places with the layers around those.
    """

    def __init__(self, base: Sequence[Place], layers: Sequence[Place]) -> None:
        self._base = list(base)
        self._layers = list(layers)
        self.installed = True

    def places(self) -> list[tuple[Place, Place]]:
        """Returns each place twice: with the model's own module, and with the layer around it."""
        return list(zip(self._base, self._layers, strict=True))

    def parameters(self) -> list[nn.Parameter]:
        """Returns the layers' own parameters, the base's left out."""
        base = {id(p) for place in self._base for p in place.module.parameters()}
        own = {id(p): p for place in self._layers for p in place.module.parameters() if id(p) not in base}
        return list(own.values())

    def train(self, mode: bool = True) -> None:
        """Puts the layers' own modules in train mode, or in eval mode, the base's left as they are."""
        set_mode(self._layers, self._base, training=mode)

    def install(self) -> None:
        """Puts the layers into the model; nothing happens if they are there."""
        if not self.installed:
            fill(self._layers)
            self.installed = True

    def remove(self) -> None:
        """Puts the base's own modules back; nothing happens if they are there."""
        if self.installed:
            fill(self._base)
            self.installed = False


def set_mode(layers: Iterable[Place], base: Iterable[Place], *, training: bool) -> None:
    """Puts the modules of layers in train or eval mode, those of the base left as they are.

    Args:
        layers: the places with the layers.
        base: the places with the model's own modules.
        training: which mode.
    """
    own = {id(module) for place in base for module in place.module.modules()}
    for layer in layers:
        for module in layer.module.modules():
            if id(module) not in own:
                module.training = training


def fill(places: Iterable[Place]) -> None:
    """Puts modules into their places."""
    for place in places:
        place.fill()


def paths_of(model: nn.Module) -> dict[int, str]:
    """Returns the dotted path of every module of a model, by the module's identity."""
    return {id(module): path for path, module in model.named_modules()}
