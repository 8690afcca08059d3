"""What heads that grow from task to task have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from contpeft.errors import SpecError
from contpeft.strategies.context import Context

__all__ = ["Growing", "kept_rows"]


@dataclass(frozen=True)
class Growing:
    """Which classes a task's head has, and which of its rows learn.

    Attributes:
        grow: keep the rows of earlier tasks, so that one head answers all classes seen.
        local: while a task is learnt, only its own classes compete and only their rows change: heads of
            the tasks side by side in one.
    """

    grow: bool = False
    local: bool = False

    def classes(self, context: Context) -> tuple[str, ...]:
        """Returns the labels seen so far when growing, else the task's own."""
        return context.seen if self.grow else context.task.classes

    def others(self, context: Context, classes: Sequence[str]) -> tuple[int, ...]:
        """Returns the rows that stay as they are while the task is learnt."""
        own = set(context.task.classes)
        return tuple(row for row, label in enumerate(classes) if label not in own) if self.local else ()


def kept_rows(context: Context, grow: bool, kind: str) -> tuple[tuple[str, ...], dict[str, list[Tensor]]]:
    """Returns the labels and rows of the last head, or nothing when they are not kept.

    Raises:
        SpecError: if the last head cannot grow into this one.
    """
    rows: dict[str, list[Tensor]] = {"weight": [], "bias": []}
    if not grow or context.previous is None:
        return (), rows
    version, state = context.previous
    head, seen = state.head, context.seen
    if head is None or head.kind != kind or head.classes != seen[: len(head.classes)]:
        raise SpecError(
            f"the head of {version.ref} cannot grow: it is no {kind} head over the first of the classes "
            f"{', '.join(seen)}; keep one recipe and one order of tasks under one name"
        )
    for name, tensor in state.head_tensors().items():
        rows[name].append(tensor)
    return head.classes, rows
