"""May a candidate replace a champion: what it lost, on which tasks, in which slices, on which rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from contpeft.errors import UsageError, suggest
from contpeft.experiments.evaluation import Evaluation
from contpeft.experiments.gate_report import GateReport, SliceChange, TaskChange, WrongRow
from contpeft.experiments.task_rows import TaskRows
from contpeft.metrics.paired import compare, holm, mean_of
from contpeft.spec import Protocol

__all__ = ["gate"]

_LABEL = "label"  # what every row has, whatever its columns


def gate(
    evaluation: Evaluation,
    candidate: str,
    champion: str,
    *,
    max_forgetting: float = 0.01,
    per_task: bool = False,
    slices: Sequence[str] | None = None,
    alpha: float = 0.05,
    protocol: Protocol = "task_aware",
) -> GateReport:
    """Returns what a candidate loses against a champion, on every task of an evaluation.

    Both answer the same rows. It fails if the measured loss is more than ``max_forgetting``: the mean
    over tasks, and with ``per_task`` that on any task. Intervals and p-values tell what chance could do;
    they decide nothing.

    Args:
        evaluation: the tasks, the model and the store.
        candidate: the version that may take over, or a guest of the evaluation.
        champion: the version it is measured against.
        max_forgetting: how much accuracy may be lost, 0 to 1.
        per_task: whether no task may lose more, not only their mean.
        slices: columns of the rows, or ``"label"``, by whose values the rows are compared too; None for
            every column there is.
        alpha: intervals cover the true difference with probability ``1 - alpha``.
        protocol: ``"task_aware"`` or ``"all_classes"``; see :meth:`Evaluation.labels`.

    Raises:
        UsageError: if ``max_forgetting`` is no share, or no row has one of the columns.
        NotFoundError: if a version does not exist.
        BaseMismatchError: if a version was trained on another base model.
        SpecError: if no head answers a task, or several could.
    """
    if not 0 <= max_forgetting <= 1:
        raise UsageError(f"max_forgetting is {max_forgetting}; give a share from 0 to 1, such as 0.01")
    wanted = _columns(evaluation.tasks, slices)
    pair = _Pair(evaluation, evaluation.resolve(champion), evaluation.resolve(candidate), alpha, protocol)
    tasks = tuple(pair.task(each) for each in evaluation.tasks)
    return GateReport(
        champion=pair.champion,
        candidate=pair.candidate,
        protocol=protocol,
        metric=evaluation.tasks[0].task.metric,
        max_forgetting=max_forgetting,
        per_task=per_task,
        alpha=alpha,
        mean=mean_of([each.change for each in tasks]),
        tasks=tasks,
        slices=pair.slices(wanted),
    )


def _columns(tasks: Sequence[TaskRows], asked: Sequence[str] | None) -> tuple[str, ...]:
    """Returns the columns to break the rows down by."""
    there = tuple(dict.fromkeys(name for each in tasks for name in each.rows.columns))
    if asked is None:
        return there
    for name in asked:
        if name not in (*there, _LABEL):
            raise UsageError(
                f"no row has a column {name!r}{suggest(name, (*there, _LABEL))}; "
                "the source of the evaluation file names those to keep: columns: [...]"
            )
    return tuple(dict.fromkeys(asked))


@dataclass(frozen=True)
class _Pair:
    """Two versions that answer the same rows."""

    evaluation: Evaluation
    champion: str
    candidate: str
    alpha: float
    protocol: Protocol

    def task(self, task: TaskRows) -> TaskChange:
        before, after = self._right(task)
        lost = [row for row, (one, other) in enumerate(zip(before, after, strict=True)) if one and not other]
        return TaskChange(
            task=task.name,
            champion=str(self.evaluation.answers(self.champion, task)),
            candidate=str(self.evaluation.answers(self.candidate, task)),
            change=compare(before, after, self.alpha),
            wrong=tuple(self._wrong(task, lost)),
        )

    def slices(self, columns: Sequence[str]) -> tuple[SliceChange, ...]:
        """Compares the rows of each value of each column, over all tasks."""
        found: dict[tuple[str, str], list[tuple[bool, bool]]] = {}
        for task in self.evaluation.tasks:
            told = {_LABEL: task.rows.labels, **task.rows.columns}
            right = list(zip(*self._right(task), strict=True))
            for name in set(columns) & set(told):
                for value, both in zip(told[name], right, strict=True):
                    found.setdefault((name, value), []).append(both)
        changes = {}
        for cell in sorted(found):
            before, after = zip(*found[cell], strict=True)
            changes[cell] = compare(before, after, self.alpha)
        corrected = holm([change.p for change in changes.values()])
        return tuple(
            SliceChange(*cell, change, p)
            for (cell, change), p in zip(changes.items(), corrected, strict=True)
        )

    def _right(self, task: TaskRows) -> tuple[tuple[bool, ...], tuple[bool, ...]]:
        before, after = (
            self.evaluation.correct(ref, task, self.protocol) for ref in (self.champion, self.candidate)
        )
        return before, after

    def _wrong(self, task: TaskRows, lost: Sequence[int]) -> Iterator[WrongRow]:
        rows, answered = task.rows, self.evaluation.labels(self.candidate, task, self.protocol)
        for row in lost:
            yield WrongRow(
                rows.ids[row], task.name, rows.labels[row], answered[row], _short(rows.inputs[row])
            )


def _short(value: Any, width: int = 60) -> str:
    """Returns an input in a form that fits in a line."""
    if isinstance(value, str):
        text = " ".join(value.split())
        return text if len(text) <= width else f"{text[: width - 3]}..."
    shape = "x".join(map(str, np.asarray(value).shape))
    return f"{type(value).__name__} {shape}"
