"""LoRA adapters folded into the weights they change: however many there are, a layer has one weight.

``W = W0 + sum_i w_i s_i B_i A_i`` is computed once, one adapter after another, so that no more than one of
them is in memory, and a layer then costs what it costs without any. The model's own weight is a tensor that
is set aside and put back, never one that is subtracted from: the base is restored bit for bit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Final

import torch
from torch import Tensor, nn

from contpeft.adapters.guests import Beside, Guest, layer_number
from contpeft.adapters.stacked import StackedLora
from contpeft.merging.fuse import one_thread
from contpeft.merging.layout import find_factors
from contpeft.spec import AdapterState

__all__ = ["Fold", "Folded"]

_EXACT: Final = (torch.float32, torch.float64)
"""Types in which a weight can take up updates that are small beside it; others round them away."""


class Folded(Guest):
    """Linear layers with other weights than their own.

    Args:
        weights: the weight of each layer, by its path in the model.
    """

    def __init__(self, weights: Mapping[str, nn.Parameter]) -> None:
        self._weights = weights

    def put_in(self, model: nn.Module, undo: ExitStack) -> None:
        """Gives the layers their other weights; what changes the layers in the model stays over them."""
        for path, weight in self._weights.items():
            if layer_number(path) not in self.dropped:
                layer = model.get_submodule(path)
                undo.callback(_exchange, layer, _exchange(layer, weight))

    def eval(self) -> None:
        """Does nothing: there is no module."""


class Fold:
    """A weighted sum of LoRA adapters on its way into the weights of a model.

    What has no weight of its own to fold into stays beside the model as factors: layers that are not linear,
    weights that are quantised, in half precision, or shared between modules.

    Args:
        model: the model, with no adapter in it; it is left as it is.
    """

    def __init__(self, model: nn.Module) -> None:
        self._layers = _layers(model)
        self._device = next(model.parameters()).device
        self._weights: dict[str, nn.Parameter] = {}
        self._beside: list[tuple[AdapterState, float]] = []

    def add(self, state: AdapterState, weight: float) -> None:
        """Adds one more adapter; it is not kept.

        Args:
            state: the adapter.
            weight: what its updates are multiplied by.

        Raises:
            UnsupportedError: if it is no LoRA adapter.
        """
        tensors = state.adapter_tensors()
        rest: dict[str, Tensor] = {}
        for path, factors in find_factors(state.kind, state.config, tensors).items():
            if path in self._layers:
                b, a, scale = factors.term(tensors)
                self._add(path, b, a, scale * weight)
            else:
                rest |= {name: tensors[name] for name in (factors.a, factors.b)}
        if rest:
            self._beside.append((AdapterState(state.kind, state.config, rest), weight))

    def _add(self, path: str, b: Tensor, a: Tensor, scale: float) -> None:
        # A weight that was made in inference mode could not be trained over later.
        with torch.inference_mode(False), torch.no_grad(), one_thread():
            if path not in self._weights:
                own = self._layers[path].weight
                self._weights[path] = nn.Parameter(own.detach().clone(), requires_grad=False)
            total = self._weights[path]
            total.addmm_(b.to(total), a.to(total), alpha=scale)

    def guests(self) -> list[Guest]:
        """Returns what answers for the sum: the weights it is folded into, and what stays beside them.

        Raises:
            UnsupportedError: if something beside is no linear layer or embedding.
        """
        folded: list[Guest] = [Folded(self._weights)] if self._weights else []
        if not self._beside:
            return folded
        states, weights = zip(*self._beside, strict=True)
        return [*folded, Beside(StackedLora(states, self._device), weights)]


def _layers(model: nn.Module) -> dict[str, nn.Linear]:
    """Returns the linear layers whose weight can be exchanged, by their paths."""
    held = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    return {path: layer for path, layer in model.named_modules() if _exchangeable(layer, held)}


def _exchangeable(layer: nn.Module, held: Mapping[int, int]) -> bool:
    if not isinstance(layer, nn.Linear):
        return False
    # What quantises or computes a weight keeps it as a type of its own, or not as a parameter.
    weight = dict(layer.named_parameters(recurse=False)).get("weight")
    return type(weight) is nn.Parameter and weight.dtype in _EXACT and held[id(weight)] == 1


def _exchange(layer: nn.Module, weight: nn.Parameter) -> nn.Parameter:
    """Gives a layer another weight and returns the one it had.

    The model may have been moved to another device while the other weight was set aside: it follows.
    """
    had = layer.get_parameter("weight")
    if (weight.device, weight.dtype) != (had.device, had.dtype):
        weight.data = weight.data.to(had)
    layer.register_parameter("weight", weight)
    return had
