"""The gate at hand, what it must keep off, and what gates weigh rows with."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from contpeft.adapters import Load
from contpeft.adapters.gated import Gate, GatedAttachment, gates_of, weigh
from contpeft.spec import Gated
from contpeft.strategies.context import Context
from contpeft.strategies.subspaces import Protected, Subspace

__all__ = ["GATE_INPUTS", "ROUTING", "gate_weights", "gated_at_hand", "kept_off", "task_rows"]

GATE_INPUTS: Final = "gate-inputs"
"""The name of the memory of what gates have read."""

ROUTING: Final = "routing"
"""The name of the memory of how rows were routed."""


def gated_at_hand(context: Context, part: str) -> GatedAttachment:
    """Returns the adapter with a gate that is attached.

    Raises:
        UnsupportedError: if there is none, naming the part that asks.
    """
    return context.attached(GatedAttachment, part, "gates", "WithGate")


def task_rows(context: Context, part: str) -> Tensor:
    """Returns what the training rows of the task are to a gate, ``(n, d)``, on the model's device.

    Raises:
        UnsupportedError: if the caller gave no examples, naming the part that asks.
    """
    data = context.training_data(part)
    return context.features.embedded(data.inputs, data.digest).to(context.adapted.device)


def kept_off(context: Context, gate: Gate) -> dict[str, tuple[nn.Parameter, Subspace]]:
    """Returns each tensor of a gate with what earlier rows gave it to read; nothing at the first task."""
    protected = Protected.recalled(context, GATE_INPUTS)
    if protected is None:
        return {}
    return {name: (parameter, protected.of(name)) for name, parameter in gate.named().items()}


def gate_weights(composition: Gated, load: Load, rows: Tensor) -> Tensor:
    """Returns how much each row gets of each adapter of a composition, ``(n, N)``; no model is asked.

    Args:
        composition: adapters with gates.
        load: gives a version's entry and weights.
        rows: what the rows are to a gate, ``(n, d)``, see :meth:`.Features.embedded`.

    Raises:
        SpecError: if a version has no gate, or gates are not made alike.
    """
    gates = gates_of([load(ref)[1] for ref in composition.over])
    with torch.no_grad():
        return weigh(gates, rows.cpu())
