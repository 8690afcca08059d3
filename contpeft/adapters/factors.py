"""The two factors of every update of a LoRA adapter: those in the model, and those stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

from torch import Tensor, nn

from contpeft.adapters.attached import Attached
from contpeft.errors import UnsupportedError
from contpeft.merging.layout import find_factors
from contpeft.spec import AdapterState

__all__ = ["Factors", "LiveFactors", "freeze_down", "live_factors", "stored_factors"]


class Factors(NamedTuple):
    """``dW = scale * up @ down`` of one linear layer.

    Attributes:
        down: ``A``, ``(r, d_in)``.
        up: ``B``, ``(d_out, r)``.
        scale: ``alpha / r``, or what else the adapter scales by.
    """

    down: Tensor
    up: Tensor
    scale: float

    def delta(self) -> Tensor:
        """Returns the update ``(d_out, d_in)``."""
        return self.scale * (self.up @ self.down)


class LiveFactors(NamedTuple):
    """The same, as the parameters that the model computes with."""

    down: nn.Parameter
    up: nn.Parameter
    scale: float

    def delta(self) -> Tensor:
        """Returns the update ``(d_out, d_in)``, gradients flowing into both factors."""
        return self.scale * (self.up @ self.down)


def live_factors(attached: Attached, what: str) -> dict[str, LiveFactors]:
    """Returns the factors of the attached LoRA adapter by the dotted path of the module they change.

    Args:
        attached: the adapter; of a composition, the one on top.
        what: names who asks in an error.

    Raises:
        UnsupportedError: if it is of another method, or changes more than linear layers.
    """
    named = attached.named_parameters()
    found = _found(attached.kind, attached.config_json(), named, what)
    return {module: LiveFactors(cast(nn.Parameter, a), cast(nn.Parameter, b), s) for module, a, b, s in found}


def freeze_down(attached: Attached, what: str) -> None:
    """Leaves the first factors ``A`` of the attached LoRA adapter as they are; only ``B`` trains.

    Args:
        attached: the adapter; of a composition, the one on top.
        what: names who asks in an error.

    Raises:
        UnsupportedError: if it is of another method, or changes more than linear layers.
    """
    for factors in live_factors(attached, what).values():
        factors.down.requires_grad_(False)
    attached.settle_trainable()


def stored_factors(state: AdapterState, what: str) -> dict[str, Factors]:
    """Returns the factors of a stored LoRA adapter by the dotted path of the module they change.

    Args:
        state: the adapter.
        what: names who asks in an error.

    Raises:
        UnsupportedError: if it is of another method, or changes more than linear layers.
    """
    found = _found(state.kind, state.config, state.adapter_tensors(), what)
    return {module: Factors(a, b, scale) for module, a, b, scale in found}


def _found(
    kind: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor], what: str
) -> list[tuple[str, Tensor, Tensor, float]]:
    if kind != "lora":
        raise UnsupportedError(f"{what} works on the factors of LoRA adapters, not on one of kind {kind!r}")
    factors = find_factors(kind, config, tensors)
    wrong = next((f.module for f in factors.values() if tensors[f.a].ndim != 2 or "embedding" in f.a), None)
    if wrong is not None:
        raise UnsupportedError(
            f"{what} works on linear layers; {wrong!r} is none, leave it out of the targets"
        )
    return [(f.module, tensors[f.a], tensors[f.b], f.scale) for f in factors.values()]
