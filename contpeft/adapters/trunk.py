"""The layers of an encoder, and how many of them an adapter leaves as they were."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from contpeft.adapters.find import get_path
from contpeft.errors import UnsupportedError

__all__ = ["Trunk"]

# Where encoders keep their layers; each takes hidden states first and returns hidden states.
_LAYERS: Final[Mapping[str, str]] = {
    "bert": "encoder.layer",
    "dinov2": "encoder.layer",
    "distilbert": "transformer.layer",
    "roberta": "encoder.layer",
    "vit": "layers",
    "xlm-roberta": "encoder.layer",
}
_Print = tuple[tuple[int, ...], ...]


class _ReachedError(Exception):
    """Carries hidden states out of a forward pass that need go no further."""

    def __init__(self, states: Tensor) -> None:
        super().__init__()
        self.states = states


class Trunk:
    """An encoder as embeddings and layers one upon the other.

    Made while no adapter is in it.

    Args:
        model: the transformers model.

    Attributes:
        module: the model without its heads.
        layers: its layers, the lowest first.

    Raises:
        UnsupportedError: if it is no encoder whose layers are known here.
    """

    def __init__(self, model: nn.Module) -> None:
        self.module = cast(nn.Module, cast(Any, model).base_model)
        config: Any = self.module.config
        path = _LAYERS.get(config.model_type)
        layers = None if path is None else get_path(self.module, path)
        if path is None or not isinstance(layers, nn.ModuleList) or getattr(config, "is_decoder", False):
            raise UnsupportedError(
                f"the lower layers of a {config.model_type} model cannot be skipped; that is known of "
                f"encoders of the families {', '.join(_LAYERS)}"
            )
        self.layers = layers
        self._embeddings = cast(nn.Module, self.module.embeddings)
        parts = path.split(".")
        self._holders = [get_path(self.module, ".".join(parts[:depth])) for depth in range(len(parts))]
        self._below = self._prints_below()
        self._bare = [_print(layer.modules()) for layer in layers]

    def depth(self) -> int:
        """Returns how many layers, from below, compute as without an adapter now."""
        if self._prints_below() != self._below:
            return 0
        changed = (n for n, layer in enumerate(self.layers) if _print(layer.modules()) != self._bare[n])
        return next(changed, len(self.layers))

    def check_still(self, depth: int) -> None:
        """Checks that the embeddings and the first layers draw no dropout.

        Raises:
            UnsupportedError: if they are in train mode.
        """
        if any(
            module.training for part in (self._embeddings, *self.layers[:depth]) for module in part.modules()
        ):
            raise UnsupportedError(
                "the layers below the adapter are in train mode, where dropout makes their output another "
                "one every time; put the base in eval mode, or leave out the prefix cache"
            )

    def states(self, depth: int, **inputs: Tensor) -> Tensor:
        """Returns the hidden states ``(B, T, d)`` after the first ``depth`` layers, without gradients.

        Args:
            depth: 1 or more.
            inputs: what the model is called with.
        """
        last = self.layers[depth - 1]
        forward = last.forward

        def stop(*args: Any, **options: Any) -> Tensor:
            raise _ReachedError(forward(*args, **options))

        with _computing_by({last: stop}), torch.inference_mode(False), torch.no_grad():
            try:
                type(self.module).forward(self.module, **inputs)
            except _ReachedError as reached:
                return reached.states
        raise UnsupportedError(
            f"{type(self.module).__name__} does not run its layers; leave out the prefix cache"
        )

    @contextmanager
    def watched(self, states: dict[int, Tensor]) -> Iterator[None]:
        """Takes down what each layer that runs inside the block returns.

        Args:
            states: gets hidden states ``(B, T, d)`` by the number of the layer, from 0.
        """

        def taking(number: int, layer: nn.Module) -> Callable[..., Tensor]:
            forward = layer.forward

            def take(*args: Any, **options: Any) -> Tensor:
                states[number] = forward(*args, **options)
                return states[number]

            return take

        with _computing_by({layer: taking(number, layer) for number, layer in enumerate(self.layers)}):
            yield

    @contextmanager
    def unskipped(self) -> Iterator[None]:
        """Lets calls of the model inside the block run all layers, whatever skips some outside it."""
        with _computing_by({self.module: partial(type(self.module).forward, self.module)}):
            yield

    @contextmanager
    def entered(self, depth: int, states: Tensor) -> Iterator[None]:
        """Lets calls of the model inside the block go on from hidden states ``(B, T, d)``, whoever calls it.

        Args:
            depth: how many layers they have been through.
            states: what the next layer reads.
        """

        def embed(*args: Any, **options: Any) -> Tensor:
            return states

        def pass_on(hidden_states: Tensor, *args: Any, **options: Any) -> Tensor:
            return hidden_states

        below = {self._embeddings: embed} | dict.fromkeys(self.layers[:depth], pass_on)
        with self.unskipped(), _computing_by(below):
            yield

    def _prints_below(self) -> _Print:
        """Returns what names the parts that the first layer depends on."""
        holders = [holder for holder in self._holders if holder is not None]
        return _print([*holders, *self._embeddings.modules()])


def _print(modules: Iterable[nn.Module]) -> _Print:
    """Returns what names modules: which they are, what they compute with, and what is hooked to them."""
    return tuple((id(module), *_weights(module), *_hooks(module)) for module in modules)


def _weights(module: nn.Module) -> list[int]:
    # Sums that are folded in exchange a layer's weight, and leave the layer where it is.
    return [id(weight) for weight in module.parameters(recurse=False)]


def _hooks(module: nn.Module) -> list[int]:
    found = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
    # transformers hooks its own layers at some first call, to show what they compute.
    return [
        id(hook) for hook in found if not str(getattr(hook, "__module__", "")).startswith("transformers.")
    ]


@contextmanager
def _computing_by(forwards: Mapping[nn.Module, Any]) -> Iterator[None]:
    """Lets modules compute by other functions inside the block."""
    before = {module: vars(module).get("forward") for module in forwards}
    try:
        for module, forward in forwards.items():
            module.forward = forward
        yield
    finally:
        for module, own in before.items():
            if own is None:
                vars(module).pop("forward", None)
            else:
                module.forward = own
