"""Tasks and streams of tasks: frozen values that have checked themselves.

A stream is an ordered list of tasks, and its scenario says what may be known about them (van de Ven
and Tolias, 2019): in a class-incremental stream every task brings new classes and all of them must
be told apart; in a task-incremental one the task of a test row is given; in a domain-incremental one
all tasks have the same classes.
"""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from contpeft.digest import json_digest
from contpeft.errors import SpecError, suggest
from contpeft.experiments.examples import Examples
from contpeft.spec import SCENARIOS, Scenario, Task, check_name

__all__ = ["Examples", "TaskData", "TaskStream", "slug"]


def slug(text: str) -> str:
    """Returns ``text`` as a name that can be part of an adapter's name; a usable name stays as it is.

    Accents are dropped, and every run of other characters becomes one ``-``.

    Raises:
        SpecError: if nothing usable is left, or the name is too long.
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", plain).lstrip(".-")
    if not name:
        raise SpecError(f"{text!r} has no letter or digit of a-z 0-9 to make a name of; rename it")
    return check_name(name if name == text else name.rstrip("-"), "task")


@dataclass(frozen=True)
class TaskData:
    """A task and the rows it is trained and tested on.

    Attributes:
        task: name, classes and metric.
        train: rows to learn from; at least one per class.
        test: rows to score on; at least one per class, none of them in ``train``.
    """

    task: Task
    train: Examples
    test: Examples

    def __post_init__(self) -> None:
        """Raises :class:`SpecError` for what could not be trained or scored."""
        check_name(self.name, "task")
        if len(set(self.classes)) != len(self.classes):
            raise SpecError(f"task {self.name!r} names a class twice: {', '.join(self.classes)}")
        if len(self.classes) < 2:
            raise SpecError(
                f"task {self.name!r} has {len(self.classes)} class; two at least can be told apart"
            )
        _check_labels(self, "train", self.train)
        _check_labels(self, "test", self.test)
        both = set(self.train.ids) & set(self.test.ids)
        if both:
            raise SpecError(
                f"row {min(both)!r} of task {self.name!r} is in train and in test; keep it in one"
            )

    @property
    def name(self) -> str:
        """The task's name."""
        return self.task.name

    @property
    def classes(self) -> tuple[str, ...]:
        """The task's classes, in the order of its outputs."""
        return self.task.classes

    def digest(self) -> str:
        """Returns the digest of the rows, train and test."""
        return json_digest([self.train.digest(), self.test.digest()])


@dataclass(frozen=True)
class TaskStream:
    """Tasks in the order they are learned.

    Attributes:
        tasks: at least one; names unique, no row in two of them, one metric.
        scenario: what may be known about them; class-incremental tasks share no class,
            domain-incremental ones share all.
    """

    tasks: tuple[TaskData, ...]
    scenario: Scenario = "class-incremental"

    def __post_init__(self) -> None:
        """Raises :class:`SpecError` for a stream that breaks its scenario."""
        if self.scenario not in SCENARIOS:
            raise SpecError(f"no scenario {self.scenario!r}{suggest(str(self.scenario), SCENARIOS)}")
        if not self.tasks:
            raise SpecError("a stream needs at least one task")
        _check_task_names(self.tasks)
        _check_metric(self.tasks)
        _check_rows(self.tasks)
        if self.scenario == "class-incremental":
            _check_disjoint(self.tasks)
        if self.scenario == "domain-incremental":
            _check_equal(self.tasks)

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, index: int) -> TaskData:
        return self.tasks[index]

    def __iter__(self) -> Iterator[TaskData]:
        return iter(self.tasks)

    @property
    def classes(self) -> tuple[str, ...]:
        """All classes, in order of first appearance."""
        return self.seen(len(self) - 1)

    def seen(self, step: int) -> tuple[str, ...]:
        """Returns the classes of the tasks up to and including ``step``; none at -1, before the first.

        Raises:
            IndexError: if the stream has no such step.
        """
        if not -1 <= step < len(self):
            raise IndexError(f"no step {step} in a stream of {len(self)} tasks")
        return tuple(dict.fromkeys(label for data in self.tasks[: step + 1] for label in data.classes))

    def union(self) -> TaskData:
        """Returns all tasks as one, ``"joint"``: what a model that forgets nothing would have seen.

        Rows keep the order of the stream; a class that several tasks share is one class.
        """
        return TaskData(
            dataclasses.replace(self.tasks[0].task, name="joint", classes=self.classes),
            Examples.joined([data.train for data in self.tasks]),
            Examples.joined([data.test for data in self.tasks]),
        )

    def describe(self) -> dict[str, Any]:
        """Returns the stream as JSON: scenario, and per task its name, classes, sizes and digests."""
        tasks = [
            {
                "name": data.name,
                "classes": list(data.classes),
                "train": {"rows": len(data.train), "digest": data.train.digest()},
                "test": {"rows": len(data.test), "digest": data.test.digest()},
            }
            for data in self.tasks
        ]
        return {"scenario": self.scenario, "tasks": tasks}

    def digest(self) -> str:
        """Returns the digest of the whole stream: scenario, names, classes and rows, in order."""
        return json_digest(self.describe())


def _check_labels(data: TaskData, split: str, examples: Examples) -> None:
    found = set(examples.labels)
    unknown = sorted(found - set(data.classes))
    if unknown:
        mend = suggest(unknown[0], data.classes)
        raise SpecError(
            f"a {split} row of task {data.name!r} has the label {unknown[0]!r}, no class of it{mend}"
        )
    for label in data.classes:
        if label not in found:
            raise SpecError(
                f"class {label!r} of task {data.name!r} has no {split} row; add one or drop the class"
            )


def _check_task_names(tasks: Sequence[TaskData]) -> None:
    name, count = Counter(data.name for data in tasks).most_common(1)[0]
    if count > 1:
        raise SpecError(f"{count} tasks are named {name!r}; names must be unique within a stream")


def _check_metric(tasks: Sequence[TaskData]) -> None:
    metrics = sorted({data.task.metric for data in tasks})
    if len(metrics) > 1:
        raise SpecError(
            f"the tasks of a stream need one metric to be averaged; there are: {', '.join(metrics)}"
        )


def _check_rows(tasks: Sequence[TaskData]) -> None:
    owner: dict[str, str] = {}
    for data in tasks:
        for row_id in (*data.train.ids, *data.test.ids):
            other = owner.setdefault(row_id, data.name)
            if other != data.name:
                raise SpecError(
                    f"row {row_id!r} is in task {other!r} and in task {data.name!r}; keep it in one"
                )


def _check_disjoint(tasks: Sequence[TaskData]) -> None:
    owner: dict[str, str] = {}
    for data in tasks:
        for label in data.classes:
            other = owner.setdefault(label, data.name)
            if other != data.name:
                raise SpecError(
                    f"class {label!r} is in task {other!r} and in task {data.name!r}, but "
                    "class-incremental tasks share none; rename it, or make the stream task-incremental"
                )


def _check_equal(tasks: Sequence[TaskData]) -> None:
    first = tasks[0]
    for data in tasks[1:]:
        differ = sorted(set(first.classes) ^ set(data.classes))
        if differ:
            raise SpecError(
                f"class {differ[0]!r} is in only one of the tasks {first.name!r} and {data.name!r}, but "
                "domain-incremental tasks have equal classes; drop it, or make the stream task-incremental"
            )
