"""Init: the adapter of the task before is trained on."""

from __future__ import annotations

from dataclasses import dataclass

from contpeft.spec import Parent
from contpeft.strategies.context import Context

__all__ = ["FromLast"]


@dataclass(frozen=True)
class FromLast:
    """The adapter of the task before is trained on: one name, a new version per task."""

    def trains(self, step: int) -> bool:
        """Every task trains it."""
        return True

    def name(self, context: Context) -> str:
        """Returns the line's name, the same for every task."""
        return context.line or context.task.name

    def start(self, context: Context) -> tuple[Parent, ...]:
        """Attaches the last version, checked against the base; a fresh adapter at the first task."""
        if context.previous is None:
            context.adapted.attach(context.spec)
            return ()
        version, state = context.previous
        context.adapted.check_base(version)
        context.adapted.attach_state(state, context.spec)
        return (Parent(version.ref, "continued"),)
