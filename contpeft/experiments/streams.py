"""From labelled data to a stream of tasks: by class or by a column."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from contpeft.errors import ConfigError, suggest
from contpeft.experiments.examples import Examples
from contpeft.experiments.sampling import draw, hold_out, shuffled
from contpeft.experiments.sources.base import LabelledData, strata
from contpeft.experiments.tasks import TaskData, TaskStream, slug
from contpeft.spec import Scenario, Task

__all__ = ["split_by_class", "split_by_column", "validating"]


def split_by_class(
    data: LabelledData,
    *,
    classes_per_task: int,
    order: Sequence[str] | None = None,
    seed: int | None = None,
    train_per_class: int | None = None,
    test_per_class: int | None = None,
    scenario: Scenario = "class-incremental",
) -> TaskStream:
    """Returns the classes of ``data`` dealt out to tasks ``task-1``, ``task-2``, ...

    Args:
        data: what to split; every class is used, every row too unless fewer are asked for.
        classes_per_task: at least 2; the last task has what is left over.
        order: every class once, in the order they are learned; None for the order by name, or the
            one ``seed`` gives.
        seed: draws the class order (where ``order`` is None) and the rows; None keeps the order by
            name and draws the rows as 0 does.
        train_per_class: rows to train on per class; None for all.
        test_per_class: rows to test on per class; None for all.
        scenario: class-incremental or task-incremental.

    Raises:
        ConfigError: if ``order`` is not an order of the classes, or a class has too few rows.
        SpecError: if the tasks break the scenario, or one is left with a single class.
    """
    if classes_per_task < 2:
        raise ConfigError(f"classes_per_task is {classes_per_task}; it must be at least 2")
    classes = _ordered(data.classes, order, seed, "class")
    groups = [classes[start : start + classes_per_task] for start in range(0, len(classes), classes_per_task)]
    train, test = _drawn(data, {}, train_per_class, test_per_class, seed)
    width = len(str(len(groups)))
    return TaskStream(
        tuple(
            TaskData(
                Task(f"task-{number:0{width}}", tuple(group)),
                _where(train, train.labels, group),
                _where(test, test.labels, group),
            )
            for number, group in enumerate(groups, start=1)
        ),
        scenario,
    )


def split_by_column(
    data: LabelledData,
    *,
    order: Sequence[str] | None = None,
    seed: int | None = None,
    train_per_class: int | None = None,
    test_per_class: int | None = None,
    scenario: Scenario = "domain-incremental",
) -> TaskStream:
    """Returns one task per value of the task column of ``data``, named by that value.

    A task has the classes that occur in it, by name.

    Args:
        data: what to split; it needs a task column.
        order: every value of the column once, in the order they are learned; None for the order by
            name, or the one ``seed`` gives.
        seed: draws the order of the tasks (where ``order`` is None) and the rows; None keeps the
            order by name and draws the rows as 0 does.
        train_per_class: rows to train on per class of a task; None for all.
        test_per_class: rows to test on per class of a task; None for all.
        scenario: domain-incremental if all tasks have the same classes, class-incremental if they
            share none, task-incremental in any case.

    Raises:
        ConfigError: if there is no task column, ``order`` is not an order of its values, or a class
            has too few rows.
        SpecError: if the tasks break the scenario.
    """
    if not data.tasks:
        raise ConfigError("the data has no task column to split by; name one in the source: task: <column>")
    names = _ordered(sorted(set(data.tasks.values())), order, seed, "task")
    train, test = _drawn(data, data.tasks, train_per_class, test_per_class, seed)
    return TaskStream(tuple(_column_task(data, name, train, test) for name in names), scenario)


def validating(stream: TaskStream, share: float, *, seed: int) -> TaskStream:
    """Returns a stream whose test rows are a part of its training rows, which are trained on no more.

    What is chosen by such a stream has seen no test row.

    Args:
        stream: the tasks.
        share: how much of every class of every task is held out, between 0 and 1.
        seed: another seed holds out other rows.

    Raises:
        ConfigError: if the share is not between 0 and 1, or a class of a task has a single training row.
    """
    parts = (hold_out(d.train, d.train.labels, share, seed=seed, option="validation") for d in stream)
    tasks = (TaskData(data.task, *part) for data, part in zip(stream, parts, strict=True))
    return TaskStream(tuple(tasks), stream.scenario)


def _drawn(
    data: LabelledData,
    tasks: Mapping[str, str],
    train_per_class: int | None,
    test_per_class: int | None,
    seed: int | None,
) -> tuple[Examples, Examples]:
    """Returns the rows to train and to test on: so many per class, or per class of each of ``tasks``."""
    train, test = strata(data.train, tasks), strata(data.test, tasks)
    return (
        draw(data.train, train, train_per_class, seed=seed or 0, option="train_per_class"),
        draw(data.test, test, test_per_class, seed=seed or 0, option="test_per_class"),
    )


def _column_task(data: LabelledData, name: str, train: Examples, test: Examples) -> TaskData:
    own_train = _where(train, [data.tasks[row_id] for row_id in train.ids], (name,))
    own_test = _where(test, [data.tasks[row_id] for row_id in test.ids], (name,))
    classes = tuple(sorted({*own_train.labels, *own_test.labels}))
    return TaskData(Task(slug(name), classes), own_train, own_test)


def _where(examples: Examples, column: Sequence[str], wanted: Collection[str]) -> Examples:
    keep = set(wanted)
    return examples.select(row for row, value in enumerate(column) if value in keep)


def _ordered(known: Sequence[str], order: Sequence[str] | None, seed: int | None, what: str) -> list[str]:
    """Returns ``order`` if it is an order of ``known``, else the one by ``seed`` or by name."""
    if order is None:
        return list(known) if seed is None else shuffled(known, seed)
    for name, count in Counter(order).items():
        if name not in known:
            raise ConfigError(f"order names {name!r}, no {what} of the data{suggest(name, known)}")
        if count > 1:
            raise ConfigError(f"order names the {what} {name!r} {count} times; name it once")
    missing = sorted(set(known) - set(order))
    if missing:
        raise ConfigError(
            f"order leaves out the {what} {missing[0]!r}; it must name every {what} of the data once"
        )
    return list(order)
