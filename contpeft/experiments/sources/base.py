"""What every source returns, and how rows get ids that do not depend on their place in a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, runtime_checkable

from contpeft.errors import ConfigError, SpecError, suggest
from contpeft.experiments.examples import Examples, content_digest
from contpeft.experiments.sampling import hold_out

__all__ = ["LabelledData", "Row", "Source", "strata"]


class Row(NamedTuple):
    """One labelled input, its value in the task column if there is one, and what else is known of it."""

    input: Any
    label: str
    task: str | None = None
    columns: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class LabelledData:
    """Labelled rows to train and to test on, not yet dealt out to tasks.

    Attributes:
        train: rows to learn from.
        test: rows to score on; none of them in ``train``.
        tasks: row id to value of the task column, for every row; empty where there is no such column.
    """

    train: Examples
    test: Examples
    tasks: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises :class:`SpecError` for a row in both splits, or one without a task among some with."""
        both = set(self.train.ids) & set(self.test.ids)
        if both:
            raise SpecError(f"row {min(both)!r} is in train and in test; keep it in one")
        without = {*self.train.ids, *self.test.ids} - set(self.tasks)
        if self.tasks and without:
            raise SpecError(f"row {min(without)!r} has no task while others have; name one for every row")

    @property
    def classes(self) -> list[str]:
        """All labels, by name."""
        return sorted({*self.train.labels, *self.test.labels})

    @classmethod
    def from_rows(cls, train: Iterable[Row], test: Iterable[Row]) -> LabelledData:
        """Returns the data of two given splits."""
        train_examples, train_tasks = _identified("train", train)
        test_examples, test_tasks = _identified("test", test)
        return cls(train_examples, test_examples, train_tasks | test_tasks)

    @classmethod
    def from_pool(cls, rows: Iterable[Row], *, test_fraction: float, seed: int) -> LabelledData:
        """Returns ``rows`` split at random, ``test_fraction`` of every class (of every task) for testing.

        Raises:
            ConfigError: if the fraction is not between 0 and 1, or a class has a single row.
        """
        pool, tasks = _identified("data", rows)
        train, test = hold_out(pool, strata(pool, tasks), test_fraction, seed=seed)
        return cls(train, test, tasks)

    def only(self, classes: Sequence[str] | None) -> LabelledData:
        """Returns the rows of ``classes``; everything for None.

        Raises:
            ConfigError: if a class does not exist or is named twice.
        """
        if classes is None:
            return self
        for label, count in Counter(classes).items():
            if label not in self.classes:
                raise ConfigError(f"the data has no class {label!r}{suggest(label, self.classes)}")
            if count > 1:
                raise ConfigError(f"classes names {label!r} {count} times; name it once")
        train, test = (
            examples.select(row for row, label in enumerate(examples.labels) if label in classes)
            for examples in (self.train, self.test)
        )
        kept = {*train.ids, *test.ids}
        return LabelledData(
            train, test, {row_id: task for row_id, task in self.tasks.items() if row_id in kept}
        )


@runtime_checkable
class Source(Protocol):
    """Anything that loads labelled data."""

    def load(self) -> LabelledData:
        """Returns the data."""
        ...


def strata(examples: Examples, tasks: Mapping[str, str]) -> list[Hashable]:
    """Returns what each row is counted under: its label, or its task and label where it has a task."""
    return [
        (tasks[row_id], label) if tasks else label
        for row_id, label in zip(examples.ids, examples.labels, strict=True)
    ]


def _identified(split: str, rows: Iterable[Row]) -> tuple[Examples, dict[str, str]]:
    """Returns examples and task column of ``rows``, each row named by its content.

    Equal rows are told apart by a count, so that none is lost.
    """
    rows = list(rows)
    count: Counter[str] = Counter()
    ids = []
    for row in rows:
        name = f"{split}/{content_digest((row.input, row.label, row.task or ''))[:16]}"
        count[name] += 1
        ids.append(name if count[name] == 1 else f"{name}-{count[name]}")
    inputs, labels = tuple(row.input for row in rows), tuple(row.label for row in rows)
    examples = Examples(inputs, labels, tuple(ids), _columns(split, rows))
    return examples, {row_id: row.task for row_id, row in zip(ids, rows, strict=True) if row.task is not None}


def _columns(split: str, rows: Sequence[Row]) -> dict[str, tuple[str, ...]]:
    names = sorted({name for row in rows for name in row.columns})
    for name in names:
        if any(name not in row.columns for row in rows):
            raise SpecError(f"some {split} rows have no column {name!r}; give it to all of them")
    return {name: tuple(row.columns[name] for row in rows) for name in names}
