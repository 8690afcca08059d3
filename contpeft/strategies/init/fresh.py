"""Init: a new adapter per task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from contpeft.spec import Parent
from contpeft.strategies.about import AN_ADAPTER, About
from contpeft.strategies.context import Context

__all__ = ["Fresh"]


@dataclass(frozen=True)
class Fresh:
    """A new adapter per task, each under a name of its own; attaching it changes no output."""

    about: ClassVar[About] = About(growth=AN_ADAPTER)

    def trains(self, step: int) -> bool:
        """Every task has an adapter to train."""
        return True

    def name(self, context: Context) -> str:
        """Returns ``line.task``, or the task's name alone outside a sequence."""
        return f"{context.line}.{context.task.name}" if context.line else context.task.name

    def start(self, context: Context) -> tuple[Parent, ...]:
        """Attaches a fresh adapter; it has no parents."""
        context.adapted.attach(context.spec)
        return ()
