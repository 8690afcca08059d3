"""What answers for a while: adapters that are made for a model, out of it until they are put in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import nn

from contpeft.adapters.attached import Attached
from contpeft.adapters.composable import LOWEST
from contpeft.adapters.gated import GatedAttachment
from contpeft.adapters.places import Place, Places, paths_of, set_mode
from contpeft.adapters.stacked import StackedLora
from contpeft.adapters.tuners.bottleneck import Site
from contpeft.adapters.union import Union
from contpeft.errors import UnsupportedError

__all__ = ["Beside", "Guest", "InPlace", "guests_of", "layer_number"]


class Guest(ABC):
    """An adapter, or several in one, that is not in the model.

    Attributes:
        dropped: numbers of the layers in which it does nothing.
    """

    dropped: Collection[int] = ()

    @abstractmethod
    def put_in(self, model: nn.Module, undo: ExitStack) -> None:
        """Lets the model compute with it, over what is in the model already, until ``undo`` is called."""

    @abstractmethod
    def eval(self) -> None:
        """Puts its own modules in eval mode."""


class Beside(Guest):
    """A weighted sum of LoRA adapters, beside the model.

    Args:
        stack: the adapters.
        weights: one for each.
    """

    def __init__(self, stack: StackedLora, weights: Sequence[float]) -> None:
        self._stack, self._weights = stack, weights

    def eval(self) -> None:
        """Does nothing: there is no module."""

    def put_in(self, model: nn.Module, undo: ExitStack) -> None:
        """Adds the sum to what the layers say."""
        modules = [each for each in self._stack.modules if layer_number(each) not in self.dropped]
        undo.enter_context(self._stack.summed(model, self._weights, modules))


class InPlace(Guest):
    """An adapter whose layers stand in the place of the base's own.

    Args:
        places: each place with the base's own module, and with the layer around it.
        paths: where in the model the base's own modules are, by their identity.
        method: of the adapter.
    """

    def __init__(self, places: Sequence[tuple[Place, Place]], paths: Mapping[int, str], method: str) -> None:
        self._places, self._method = list(places), method
        self._numbers = [layer_number(paths[id(base.module)]) for base, _ in self._places]

    def put_in(self, model: nn.Module, undo: ExitStack) -> None:
        """Puts each layer around what is in its place.

        Raises:
            UnsupportedError: if that is another adapter's, which a layer of this method would leave out.
        """
        for number, (base, layer) in zip(self._numbers, self._places, strict=True):
            if number not in self.dropped:
                self._put_over(base, layer, undo)

    def _put_over(self, base: Place, layer: Place, undo: ExitStack) -> None:
        now = base.now()
        if now.module is not base.module:
            if self._method in LOWEST:
                raise UnsupportedError(
                    f"an adapter of method {self._method!r} computes with the base's own {base.name!r} "
                    "and would leave out the adapter below it; put it lowest"
                )
            _nest(layer.module, now.module, undo)
        undo.callback(now.fill)
        layer.fill()

    def eval(self) -> None:
        """Puts the layers' own modules in eval mode, the base's left as they are."""
        base, layers = zip(*self._places, strict=True)
        set_mode(layers, base, training=False)


class Whole(Guest):
    """An adapter that cannot be put in place by place: a prompt, or what has gates.

    Args:
        attached: the adapter, taken out.
    """

    def __init__(self, attached: Attached) -> None:
        self._attached = attached

    def put_in(self, model: nn.Module, undo: ExitStack) -> None:
        """Lets the model compute with it.

        Raises:
            UnsupportedError: if layers are to be dropped, or gates would leave out what is below.
        """
        if self.dropped:
            raise UnsupportedError(
                "layers cannot be dropped of an adapter of the model's inputs, of a union with gates, nor of "
                "adapters with gates"
            )
        parts = self._attached.parts if isinstance(self._attached, Union | GatedAttachment) else ()
        places = [place for part in parts if isinstance(part, Places) for place in part.places()]
        if any(base.now().module is not base.module for base, _ in places):
            what = "a union with gates" if isinstance(self._attached, Union) else "an adapter with a gate"
            raise UnsupportedError(f"{what} cannot stand over other adapters; put it lowest")
        self._attached.install()
        undo.callback(self._attached.remove)

    def eval(self) -> None:
        """Puts its modules in eval mode."""
        self._attached.train(False)


def guests_of(attached: Attached, model: nn.Module) -> list[Guest]:
    """Returns the guests that an adapter is: each part of a union is one.

    Args:
        attached: made for ``model``, and taken out.
        model: with no adapter in it.
    """
    if isinstance(attached, Union) and not attached.gated:
        return [guest for part in attached.parts for guest in guests_of(part, model)]
    if not isinstance(attached, Places):
        return [Whole(attached)]
    return [InPlace(attached.places(), paths_of(model), attached.kind)]


def layer_number(path: str) -> int | None:
    """Returns the number of the layer that a module belongs to, the first in its path; None outside them."""
    return next((int(part) for part in path.split(".") if part.isdigit()), None)


def _nest(layer: nn.Module, below: nn.Module, undo: ExitStack) -> None:
    """Lets a layer compute with what is in its place instead of the base's own module."""
    if isinstance(layer, Site) and isinstance(below, Site) and layer.flow == below.flow:
        undo.callback(setattr, layer, "below", layer.below)
        layer.below = (below,)
        return
    undo.callback(setattr, layer, "base_layer", layer.base_layer)
    with torch.inference_mode(False):
        layer.base_layer = below
