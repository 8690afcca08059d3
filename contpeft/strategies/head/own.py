"""Head: the module's own."""

from __future__ import annotations

from dataclasses import dataclass

from contpeft.strategies.context import Context

__all__ = ["Own"]


@dataclass(frozen=True)
class Own:
    """The module's own head: as first seen for a fresh adapter, as stored for a continued one."""

    def classes(self, context: Context) -> tuple[str, ...]:
        """Returns the task's labels."""
        return context.task.classes

    def start(self, context: Context) -> None:
        """Puts the module's own head in its starting state."""
        if context.parents and context.previous is not None:
            context.adapted.load_head(context.previous[1])
        else:
            context.adapted.reset_head()
