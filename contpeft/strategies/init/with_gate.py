"""Init: a new adapter per task with a gate of its own, beside all earlier ones with theirs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final

import torch
from torch import Tensor
from torch.nn import functional as F

from contpeft.adapters.gated import Gate, GatedAttachment, GateOptions, gates_of
from contpeft.spec import AdapterState, Parent
from contpeft.strategies.about import AN_ADAPTER, About
from contpeft.strategies.context import Context
from contpeft.strategies.gating import kept_off, task_rows
from contpeft.strategies.init.fresh import Fresh
from contpeft.strategies.subspaces import check_room

__all__ = ["WithGate"]

_STRAY: Final = 1e-3  # of a drawn direction in a key's start, for a task whose rows lie where earlier ones do


@dataclass(frozen=True)
class WithGate(Fresh):
    """A new LoRA adapter and gate per task, weighed row by row with all earlier ones, which are frozen.

    The gate's layers go on from those of the last gate; its key starts at the mean query of the task's rows,
    without what lies where gates have read on earlier tasks, if that is remembered (:class:`ProtectGate`).
    The adapter starts as its method does, so that attaching the first changes no output.

    Attributes:
        gate: what gates are made of.
    """

    about: ClassVar[About] = About(
        paper="Liang et al. 2025, arXiv 2505.15424",
        growth=AN_ADAPTER,
        needs=frozenset({"examples", "features", "lora"}),
    )

    gate: GateOptions = field(default_factory=GateOptions)

    def start(self, context: Context) -> tuple[Parent, ...]:
        """Attaches the adapter and its gate; its parents are those it is weighed with.

        Raises:
            SpecError: if earlier adapters have no gates, or others.
            UnsupportedError: if the adapter is no plain LoRA of linear layers, if there are no examples, or
                no direction is left that gates have not read.
        """
        earlier = [context.load(version.ref) for version in context.adapters]
        for version, _ in earlier:
            context.adapted.check_base(version)
        rows = task_rows(context, "starting a gate")
        states = [state for _, state in earlier]
        gate = Gate(self.gate, self._tensors(states, rows.shape[1], context.seed))
        own = context.adapted.attach(context.spec)
        context.adapted.detach()
        context.adapted.put_in(lambda: GatedAttachment(context.adapted.model, states, own, gate))
        _start_key(context, gate, rows)
        return tuple(Parent(version.ref, "frozen") for version, _ in earlier)

    def _tensors(self, earlier: Sequence[AdapterState], width: int, seed: int) -> dict[str, Tensor]:
        drawn = self.gate.drawn(width, torch.Generator().manual_seed(seed))
        last = gates_of(earlier[-1:])[0].named() if earlier else drawn
        return {**{name: value.detach() for name, value in last.items()}, "key": drawn["key"]}


def _start_key(context: Context, gate: Gate, rows: Tensor) -> None:
    """Puts the key of a gate where the task's queries are, as far as no earlier task's are there."""
    with torch.no_grad():
        mean = F.normalize(gate.query(rows).double().mean(0), dim=0)
        start = mean + _STRAY * F.normalize(gate.key.double(), dim=0)
        protected = kept_off(context, gate)
        if "key" in protected:
            space = protected["key"][1]
            check_room(space, 1, "the gate's key")
            start = space.like(start).off(start)
        # Attention compares inner products, so that its keys are as long as its queries.
        length = math.sqrt(len(start)) if gate.options.rule == "attention" else 1.0
        gate.key.copy_(length * F.normalize(start, dim=0))
