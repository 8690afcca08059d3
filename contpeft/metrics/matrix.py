"""The accuracy matrix: which score, after which training step, on which task."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from contpeft.errors import SpecError, suggest

__all__ = ["Matrix", "check_finite"]


@dataclass(frozen=True)
class Matrix:
    """The scores of a task sequence, ``R[i][j]`` of Lopez-Paz & Ranzato (2017).

    Attributes:
        tasks: the ``T`` task names in training order.
        rows: ``(T, T)``; ``rows[i][j]`` is the score on task ``j`` after training step ``i``
            (both from 0), in the metric's own unit, or None where it was not measured.

    Raises:
        SpecError: if there is no task, a task is named twice, the rows are not ``T`` by ``T``, or
            a score is NaN or infinite.
    """

    tasks: tuple[str, ...]
    rows: tuple[tuple[float | None, ...], ...]

    def __post_init__(self) -> None:
        _check_tasks(self.tasks)
        size = len(self.tasks)
        if len(self.rows) != size or any(len(row) != size for row in self.rows):
            shape = [len(row) for row in self.rows]
            raise SpecError(
                f"a matrix of {size} tasks needs {size} rows of {size} cells, got rows of {shape}"
            )
        for step, row in enumerate(self.rows):
            for task, value in zip(self.tasks, row, strict=True):
                if value is not None:
                    check_finite(value, f"score after step {step} on task {task!r}")

    @classmethod
    def from_cells(cls, tasks: Sequence[str], cells: Iterable[tuple[int, str, float]]) -> Matrix:
        """Returns the matrix that long-form cells describe; cells in no order, gaps allowed.

        Args:
            tasks: task names in training order.
            cells: ``(step, task, score)``, the step from 0. A cell may be repeated with the value
                it had.

        Raises:
            SpecError: if a step or a task does not exist, a cell comes with two values, or a score
                is NaN or infinite.
        """
        column = {task: j for j, task in enumerate(tasks)}
        grid: list[list[float | None]] = [[None] * len(tasks) for _ in tasks]
        for step, task, value in cells:
            _check_place(step, task, tasks)
            check_finite(value, f"score after step {step} on task {task!r}")
            known = grid[step][column[task]]
            if known is not None and known != value:
                raise SpecError(
                    f"score after step {step} on task {task!r} is given as {known} and as {value}; "
                    "keep one of them"
                )
            grid[step][column[task]] = value
        return cls(tuple(tasks), tuple(map(tuple, grid)))

    @property
    def diagonal(self) -> tuple[float | None, ...]:
        """The score on each task directly after it was learned, ``R[j][j]``."""
        return tuple(self.rows[j][j] for j in range(len(self.tasks)))

    @property
    def last(self) -> tuple[float | None, ...]:
        """The score on each task at the end of the sequence, ``R[T-1][j]``."""
        return self.rows[-1]

    def column(self, j: int) -> tuple[float | None, ...]:
        """Returns the scores on task ``j`` after each step."""
        return tuple(row[j] for row in self.rows)

    def negated(self) -> Matrix:
        """Returns the matrix with every score's sign turned, so that smaller becomes better."""
        rows = tuple(tuple(None if value is None else -value for value in row) for row in self.rows)
        return Matrix(self.tasks, rows)

    def to_json(self) -> dict[str, Any]:
        """Returns the matrix as JSON; a cell that was not measured is null."""
        return {"tasks": list(self.tasks), "rows": [list(row) for row in self.rows]}


def check_finite(value: float, what: str) -> None:
    """Checks that a score is a number one can compare.

    Raises:
        SpecError: if it is NaN or infinite.
    """
    if not math.isfinite(value):
        raise SpecError(f"{what} is {value}; leave the cell out if it was not measured")


def _check_tasks(tasks: Sequence[str]) -> None:
    if not tasks:
        raise SpecError("a matrix needs at least one task")
    twice = sorted({task for task in tasks if tasks.count(task) > 1})
    if twice:
        raise SpecError(f"task {twice[0]!r} is in the matrix twice; task names are unique within a sequence")


def _check_place(step: int, task: str, tasks: Sequence[str]) -> None:
    if task not in tasks:
        raise SpecError(f"no task {task!r} in the matrix{suggest(task, tasks)}")
    if not 0 <= step < len(tasks):
        raise SpecError(
            f"no step {step} in a matrix of {len(tasks)} tasks; steps go from 0 to {len(tasks) - 1}"
        )
