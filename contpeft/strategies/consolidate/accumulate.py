"""Consolidate: the sizes of all updates so far, entry by entry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from contpeft.spec import Version
from contpeft.strategies.about import About
from contpeft.strategies.context import Context

__all__ = ["USED", "AccumulateUpdates"]

USED = "used"
_PART = "accumulating updates"


@dataclass(frozen=True)
class AccumulateUpdates:
    """Remembers ``sum_i |dW_i|`` of each adapted matrix, in one buffer however many tasks there are."""

    about: ClassVar[About] = About(
        paper="ELLA, 2026, arXiv 2601.02232",
        growth="d_out x d_in once",
        needs=frozenset({"lora"}),
    )

    def check(self, context: Context) -> None:
        """Checks that the adapter has factors.

        Raises:
            UnsupportedError: if not.
        """
        context.factors(_PART)

    def end(self, context: Context, trained: Version | None) -> tuple[Version, ...]:
        """Registers the buffers ``(d_out, d_in)`` by module, this task's update added."""
        live = context.factors(_PART)
        memory = context.recall(USED)
        with torch.no_grad():
            sizes = {module: each.delta().abs().cpu() for module, each in live.items()}
        if memory is not None:
            sizes = {module: size + memory.tensors[module] for module, size in sizes.items()}
        return (context.remember(USED, sizes, {}),)
