"""What a gate found, its verdict, and the words for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from contpeft.errors import UsageError
from contpeft.metrics.paired import Comparison, Paired
from contpeft.spec import Protocol, Single

__all__ = ["GateReport", "SliceChange", "TaskChange", "Terms", "WrongRow", "allowed"]

# Accuracies are shares of rows: a loss of exactly what is allowed must not fail by rounding.
_ROUNDING: Final = 1e-9


@dataclass(frozen=True)
class Terms:
    """What a candidate may lose, and how it is measured.

    Attributes:
        max_forgetting: how much accuracy may be lost, 0 to 1.
        per_task: whether no task may lose more, not only their mean.
        slices: columns of the rows, or ``"label"``, by whose values the rows are compared too; None for
            every column there is.
        alpha: intervals cover the true difference with probability ``1 - alpha``.
        protocol: ``"task_aware"``, or ``"all_classes"`` for all that the answering head knows.
    """

    max_forgetting: float = 0.01
    per_task: bool = False
    slices: tuple[str, ...] | None = None
    alpha: float = 0.05
    protocol: Protocol = "task_aware"

    def __post_init__(self) -> None:
        """Raises :class:`UsageError` if what may be lost is no share."""
        if not 0 <= self.max_forgetting <= 1:
            raise UsageError(
                f"max_forgetting is {self.max_forgetting}; give a share from 0 to 1, such as 0.01"
            )

    def allow(self, loss: float) -> bool:
        """Returns whether so much may be lost."""
        return allowed(loss, self.max_forgetting)


@dataclass(frozen=True)
class WrongRow:
    """A row the champion has right and the candidate wrong.

    Attributes:
        id: the row's id.
        task: its task.
        label: its label.
        answered: what the candidate answers.
        input: the input, cut to fit in a line.
    """

    id: str
    task: str
    label: str
    answered: str
    input: str


@dataclass(frozen=True)
class TaskChange:
    """What the candidate does to one task.

    Attributes:
        task: its name.
        champion: what answers now: a version, with its own head or that of another one.
        candidate: what would.
        change: both accuracies and what chance could do.
        wrong: the rows that turned wrong.
    """

    task: str
    champion: Single
    candidate: Single
    change: Paired
    wrong: tuple[WrongRow, ...]


@dataclass(frozen=True)
class SliceChange:
    """What the candidate does to the rows with one value in a column, over all tasks.

    Attributes:
        column: the column.
        value: the value.
        change: both accuracies and what chance could do.
        p: its p-value, corrected for the number of slices (Holm).
    """

    column: str
    value: str
    change: Paired
    p: float


@dataclass(frozen=True)
class GateReport:
    """A candidate beside a champion.

    Attributes:
        champion: ``name@n``.
        candidate: ``name@n``.
        terms: what may be lost.
        metric: the tasks' metric.
        mean: the mean over tasks.
        tasks: task by task, in the order of the stream.
        slices: every slice that was compared.
    """

    champion: str
    candidate: str
    terms: Terms
    metric: str
    mean: Comparison
    tasks: tuple[TaskChange, ...]
    slices: tuple[SliceChange, ...]

    @property
    def passed(self) -> bool:
        """Whether the candidate may take over."""
        return not self.failures

    @property
    def failures(self) -> dict[str, Comparison]:
        """What lost more than is allowed, of that which decides: the mean, with ``per_task`` tasks too."""
        deciding: dict[str, Comparison] = {"the mean over tasks": self.mean}
        if self.terms.per_task:
            deciding |= {f"task {each.task}": each.change for each in self.tasks}
        return {name: change for name, change in deciding.items() if not self.terms.allow(change.loss)}

    @property
    def lost_slices(self) -> tuple[SliceChange, ...]:
        """The slices that lost more than is allowed, the worst first."""
        lost = [each for each in self.slices if not self.terms.allow(each.change.loss)]
        return tuple(sorted(lost, key=lambda each: (each.p, -each.change.loss)))

    @property
    def wrong(self) -> tuple[WrongRow, ...]:
        """All rows that turned wrong."""
        return tuple(row for each in self.tasks for row in each.wrong)

    def verdict(self) -> list[str]:
        """Returns the decision in words: one line when it passed, else one for each thing that failed."""
        if self.failures:
            return [f"failed: {self._blame(name, change)}" for name, change in self.failures.items()]
        return [
            f"passed: {self.candidate} against {self.champion} has {_percent(self.mean.after)} % "
            f"(was {_percent(self.mean.before)} %, {_signed(self.mean.difference)}) on the mean of "
            f"{len(self.tasks)} task{'' if len(self.tasks) == 1 else 's'}{self._doubt()}"
        ]

    def to_json(self) -> dict[str, Any]:
        """Returns the report as JSON, accuracies from 0 to 1."""
        return {
            **{name: getattr(self, name) for name in ("champion", "candidate", "metric", "passed")},
            **{
                name: getattr(self.terms, name)
                for name in ("max_forgetting", "per_task", "alpha", "protocol")
            },
            "verdict": self.verdict(),
            "mean": _numbers(self.mean),
            "tasks": [
                {
                    "task": each.task,
                    "champion": str(each.champion),
                    "candidate": str(each.candidate),
                    **_numbers(each.change),
                    "wrong": [asdict(row) for row in each.wrong],
                }
                for each in self.tasks
            ],
            "slices": [
                {"column": each.column, "value": each.value, **_numbers(each.change), "p_corrected": each.p}
                for each in self.slices
            ],
        }

    def _blame(self, name: str, change: Comparison) -> str:
        told = f"{name} lost {_percent(change.loss)}, {_percent(self.terms.max_forgetting)} may be lost"
        if self.terms.allow(-change.high):
            told += f" (cannot be told from chance with n={change.n} rows)"
        return told

    def _doubt(self) -> str:
        """Returns what a pass does not rule out."""
        worst = -self.mean.low
        if self.candidate == self.champion or self.terms.allow(worst):
            return ""
        return f"; with n={self.mean.n} rows a true loss of up to {_percent(worst)} is not ruled out"


def allowed(loss: float, most: float) -> bool:
    """Returns whether a loss of accuracy is no more than may be lost, both 0 to 1."""
    return loss <= most + _ROUNDING


def _numbers(change: Comparison) -> Mapping[str, Any]:
    return {**asdict(change), "difference": change.difference}


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _signed(share: float) -> str:
    # Rounded first, so that nothing is never written as -0.0.
    return f"{round(100 * share, 1) + 0.0:+.1f}"
