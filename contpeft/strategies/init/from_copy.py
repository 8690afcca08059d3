"""Init: one of several copies of the adapter is trained on."""

from __future__ import annotations

from dataclasses import dataclass

from contpeft.spec import Parent
from contpeft.strategies.context import Context
from contpeft.strategies.init.from_last import FromLast

__all__ = ["FromCopy"]


@dataclass(frozen=True)
class FromCopy(FromLast):
    """One of the copies that the task before has left is trained on, under the line's name.

    Attributes:
        copy: the part it was registered for, such as ``"average"``; empty for the adapter as trained.
    """

    copy: str = ""

    def start(self, context: Context) -> tuple[Parent, ...]:
        """Attaches the copy, checked against the base; a fresh adapter at the first task."""
        version = context.last(self.copy)
        if version is None:
            context.adapted.attach(context.spec)
            return ()
        context.adapted.check_base(version)
        context.adapted.attach_state(context.store.load(version.ref), context.spec)
        return (Parent(version.ref, "continued"),)
