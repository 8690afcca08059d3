"""The rows stored adapters are measured on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from contpeft.errors import UsageError
from contpeft.experiments.examples import Examples
from contpeft.experiments.sampling import shuffled
from contpeft.experiments.tasks import TaskData
from contpeft.spec import Protocol, Task

__all__ = ["TaskRows", "answerable", "rows_of", "some_of"]


@dataclass(frozen=True)
class TaskRows:
    """A task and the rows adapters are measured on.

    Attributes:
        task: name, classes and metric.
        rows: its test rows, or a part of them.
    """

    task: Task
    rows: Examples

    @property
    def name(self) -> str:
        """The task's name."""
        return self.task.name

    @cached_property
    def digest(self) -> str:
        """Digest of the rows."""
        return self.rows.digest()


def rows_of(data: TaskData, count: int | None = None, seed: int = 0) -> TaskRows:
    """Returns the test rows of a task, or some of them.

    Args:
        data: the task.
        count: at most so many; None for all. The rows of a smaller number are among those of a larger.
        seed: another seed draws other rows.

    Raises:
        UsageError: if ``count`` is below 1.
    """
    return TaskRows(data.task, some_of(data.test, count, seed))


def some_of(rows: Examples, count: int | None = None, seed: int = 0) -> Examples:
    """Returns rows, or some of them; takes and raises what :func:`rows_of` does."""
    if count is not None and count < 1:
        raise UsageError(f"rows is {count}; it must be at least 1, or None for all")
    if count is None or count >= len(rows):
        return rows
    place = {row_id: index for index, row_id in enumerate(rows.ids)}
    drawn = shuffled(rows.ids, seed)[:count]
    return rows.select(sorted(place[row_id] for row_id in drawn))


def answerable(task: TaskRows, protocol: Protocol) -> tuple[str, ...] | None:
    """Returns the labels that may be answered; None for all that a head knows.

    Raises:
        UsageError: if the protocol is of a sequence of tasks.
    """
    if protocol not in ("task_aware", "all_classes"):
        raise UsageError(
            f"protocol {protocol!r} is of a sequence; a stored version is measured task_aware or all_classes"
        )
    return task.task.classes if protocol == "task_aware" else None
