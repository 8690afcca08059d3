"""Answers: each task by what was learnt at it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from contpeft.spec import Composition, Parallel, Single, Version
from contpeft.strategies.about import About
from contpeft.strategies.context import Context

__all__ = ["ByTask"]


@dataclass(frozen=True)
class ByTask:
    """Each task is answered by the version trained last for it, its id being known.

    Where the task is not known, all of them answer and the surest wins.
    """

    about: ClassVar[About] = About(needs=frozenset({"task id"}))

    def route(self, context: Context, registered: tuple[Version, ...]) -> dict[str, Composition]:
        """Returns the versions side by side, one a task, in task order."""
        last = {version.task: version.ref for version in context.adapters_with(registered)}
        return {"main": Parallel(tuple(Single(ref) for ref in last.values()))}
