"""Consolidate: how much the task's update has in common with earlier ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from contpeft.spec import Version
from contpeft.strategies.about import About
from contpeft.strategies.context import Context
from contpeft.strategies.earlier import earlier_factors, meeting

__all__ = ["MeasureOverlap"]

_PART = "measuring overlaps"


@dataclass(frozen=True)
class MeasureOverlap:
    """Writes down how the task's adapter meets earlier ones, and how large its update is.

    A memory named ``overlap``: its facts say both numbers (``overlap``, the mean over earlier tasks, None at
    the first; ``size``, the update's Frobenius norm), its tensors hold ``overlaps``, ``(t,)``, and ``size``,
    ``(1,)``.
    """

    about: ClassVar[About] = About(growth="a number a task", needs=frozenset({"lora"}))

    def check(self, context: Context) -> None:
        """Checks that the adapter has factors.

        Raises:
            UnsupportedError: if not.
        """
        context.factors(_PART)

    def end(self, context: Context, trained: Version | None) -> tuple[Version, ...]:
        """Registers the measures."""
        found = meeting(context.factors(_PART), earlier_factors(context, _PART))
        overlaps = torch.tensor(found.overlaps, dtype=torch.float64)
        mean = float(overlaps.mean()) if found.overlaps else None
        tensors = {"overlaps": overlaps, "size": torch.tensor([found.size], dtype=torch.float64)}
        return (context.remember("overlap", tensors, {"overlap": mean, "size": found.size}),)
