"""Adapters with gates as they are stored: the LoRA adapter and the gate in one version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from torch import Tensor

from contpeft.adapters.gated.gate import Gate, GateOptions
from contpeft.errors import SpecError
from contpeft.spec import AdapterState
from contpeft.spec.methods import GATED

__all__ = ["GATE", "gate_of", "gates_of", "lora_of", "options_of"]

GATE: Final = "gate."
"""What the names of a gate's tensors begin with; all others are the LoRA adapter's, as PEFT spells them."""


def options_of(state: AdapterState) -> GateOptions:
    """Returns what a stored gate is made of.

    Raises:
        SpecError: if there is none.
    """
    if state.kind != GATED:
        raise SpecError(
            f"an adapter of kind {state.kind!r} has no gate; only versions of kind {GATED!r} have"
        )
    return GateOptions(**state.config["gate"])


def lora_of(state: AdapterState) -> AdapterState:
    """Returns the LoRA adapter as it would be stored without its gate."""
    kept = {name: value for name, value in state.adapter_tensors().items() if not name.startswith(GATE)}
    return AdapterState("lora", state.config["lora"], kept)


def gate_of(state: AdapterState) -> Gate:
    """Returns the gate, which reads and does not train.

    Raises:
        SpecError: if there is none.
    """
    return Gate(options_of(state), _inside(state.adapter_tensors())).requires_grad_(False)


def gates_of(states: Sequence[AdapterState]) -> list[Gate]:
    """Returns the gates of several stored adapters that weigh together.

    Raises:
        SpecError: if one has none, or they are not made alike.
    """
    for state in states:
        if options_of(state) != options_of(states[-1]):
            raise SpecError(
                f"gates of {options_of(state)} and of {options_of(states[-1])} do not weigh together; name "
                "versions of one way"
            )
    return [gate_of(state) for state in states]


def _inside(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(GATE): value for name, value in tensors.items() if name.startswith(GATE)}
