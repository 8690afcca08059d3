"""Consolidate: what the gate has read on a task is protected from the gates of later tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from contpeft.spec import Version
from contpeft.strategies.about import About
from contpeft.strategies.context import Context
from contpeft.strategies.gating import GATE_INPUTS, gated_at_hand, task_rows
from contpeft.strategies.subspaces import Energy, Protected, Subspace, grown

__all__ = ["ProtectGate"]


@dataclass(frozen=True)
class ProtectGate:
    """The main directions of what each layer and the key of the gate read on the task are remembered.

    Gradient projection memory (Saha et al. 2021, arXiv 2103.09762) on the gate, as GainLoRA has it: a later
    gate that starts from this one's layers and changes nothing in these directions makes the same query of
    the task's rows, and a key at right angles to those queries gives them no weight. Rows are one vector
    each, so that this costs the embeddings of the task's rows.

    Attributes:
        share: of the energy that is kept.
        energy: ``"cov"`` sums up eigenvalues of the second moment, ``"cov2"`` their squares.
        cap: the most directions of a tensor's input that are protected; None for all of them.
    """

    about: ClassVar[About] = About(
        paper="Liang et al. 2025, arXiv 2505.15424",
        growth="at most half the inputs of a gate's layers, squared, for all tasks together",
        needs=frozenset({"examples", "features"}),
    )

    share: float = 0.99
    energy: Energy = "cov"
    cap: int | None = None

    def end(self, context: Context, trained: Version | None) -> tuple[Version, ...]:
        """Registers the protected subspaces and how many directions they have.

        Raises:
            UnsupportedError: if there is no gate, or no examples.
        """
        gate = gated_at_hand(context, "protecting what a gate reads").gate
        with torch.no_grad():
            read = gate.reads(task_rows(context, "protecting what a gate reads"))
        before, spaces = Protected.recalled(context, GATE_INPUTS), {}
        for name, x in read.items():
            space = Subspace.nothing(x.shape[1]) if before is None else before.of(name)
            moment = x.double().T @ x.double() / len(x)
            spaces[name] = grown(space, moment.cpu(), self.share, self.energy, self.cap)
        told = {"share": self.share, "energy": self.energy, "cap": self.cap}
        return (Protected(spaces, {name: name for name in spaces}).remember(context, told, GATE_INPUTS),)
