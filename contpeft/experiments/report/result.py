"""What one run measured, as frozen values: the input of every table and picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from contpeft.metrics import Matrix, Summary
from contpeft.spec import PROTOCOLS, BaseModel, Parent, Protocol, Task

__all__ = ["Cell", "GateDrift", "LineageRow", "ProtocolResult", "RunResult", "WayResult"]

Cell = tuple[int, str]
"""A place in a matrix: (step from 0, task name)."""


@dataclass(frozen=True)
class ProtocolResult:
    """What one way scored under one protocol.

    Attributes:
        matrix: the scores.
        summary: its numbers.
        task_forgetting: forgetting of each task, see :func:`contpeft.metrics.task_forgetting`;
            positive is a loss whichever way the metric points.
        base: task name to score of the untouched base, its head started for the task.
        start: task name to score after the task's head was started and before its training.
        copied: cells not measured again, because equal content had been measured on equal data.
        n: cell to number of examples behind it.
        task_hits: share of rows, the mean over tasks at the end, that got a label of their own task; None
            where labels do not tell the task, or it is known.
    """

    matrix: Matrix
    summary: Summary
    task_forgetting: tuple[float | None, ...]
    base: Mapping[str, float]
    start: Mapping[str, float]
    copied: frozenset[Cell]
    n: Mapping[Cell, int]
    task_hits: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the result as JSON; cells in row order."""
        order = [(i, task) for i in range(len(self.matrix.tasks)) for task in self.matrix.tasks]
        return {
            "matrix": self.matrix.to_json(),
            "summary": self.summary.to_json(),
            "task_forgetting": list(self.task_forgetting),
            "base": dict(self.base),
            "start": dict(self.start),
            "copied": [list(cell) for cell in order if cell in self.copied],
            "n": [[*cell, self.n[cell]] for cell in order if cell in self.n],
            "task_hits": self.task_hits,
        }


@dataclass(frozen=True)
class GateDrift:
    """How far gates have moved on a task's rows since it was learnt: summed over adapters, mean over rows.

    Attributes:
        earlier: by how much the weights of adapters differ that were there then.
        later: the weights of those that came later.
    """

    earlier: float
    later: float


@dataclass(frozen=True)
class WayResult:
    """One answer of one strategy of the run.

    Attributes:
        way: the strategy's name in the run.
        answer: which of its answers.
        label: how tables and pictures call it.
        protocols: protocol to what was scored, in the order of :data:`contpeft.spec.PROTOCOLS`.
        seconds: time of all steps of the way, or None if it has none yet. Answers of one way
            share their steps, so each of them carries the same seconds.
        versions: references of what answers after the last step.
        gate_drift: task name to how far its rows' gates have moved, after the last step; for ways with gates.
    """

    way: str
    answer: str
    label: str
    protocols: Mapping[Protocol, ProtocolResult]
    seconds: float | None
    versions: tuple[str, ...]
    gate_drift: Mapping[str, GateDrift] = field(default_factory=dict)

    @property
    def bound(self) -> bool:
        """Whether it trains no adapter: a bound that a strategy has to earn its place above."""
        return self.way.startswith("frozen")

    def to_json(self) -> dict[str, Any]:
        """Returns the result as JSON."""
        return {
            "way": self.way,
            "answer": self.answer,
            "label": self.label,
            "bound": self.bound,
            "seconds": self.seconds,
            "versions": list(self.versions),
            "gate_drift": {task: asdict(drift) for task, drift in self.gate_drift.items()},
            "protocols": {name: result.to_json() for name, result in self.protocols.items()},
        }


@dataclass(frozen=True)
class LineageRow:
    """One version the run made.

    Attributes:
        ref: ``name@n``.
        way: the strategy that made it.
        step: index of the task after which it was made.
        task: name of that task.
        kind: the adapter method, or ``"statistics"``.
        parents: what it was made from.
        parameters: number of its adapter parameters, head excluded.
        bytes: size of its file.
        fingerprint: digest of its tensors.
    """

    ref: str
    way: str
    step: int
    task: str
    kind: str
    parents: tuple[Parent, ...]
    parameters: int
    bytes: int
    fingerprint: str


@dataclass(frozen=True)
class RunResult:
    """Everything a report says about a run.

    Attributes:
        run: its name.
        status: ``"running"``, ``"finished"``, ``"failed"`` or ``"interrupted"``.
        config: the whole configuration.
        seed: the seed.
        scenario: what is known about a task at test time.
        tasks: the tasks in training order.
        environment: name to version of the software that made the run's versions.
        started_at: UTC, ISO 8601.
        finished_at: when it last stopped, or None while it runs.
        base_model: the frozen model below all versions, or None if the run made no version.
        ways: one result for each answer of each strategy, in order of appearance.
        lineage: the versions the run made, in order of appearance.
    """

    run: str
    status: str
    config: Mapping[str, Any]
    seed: int
    scenario: str
    tasks: tuple[Task, ...]
    environment: Mapping[str, str]
    started_at: str
    finished_at: str | None
    base_model: BaseModel | None
    ways: tuple[WayResult, ...]
    lineage: tuple[LineageRow, ...]

    @property
    def metric(self) -> str:
        """The name of the score, the same for all tasks."""
        return self.tasks[0].metric

    @property
    def lower_is_better(self) -> bool:
        """Whether a smaller score is a better one."""
        return self.tasks[0].lower_is_better

    @property
    def protocols(self) -> tuple[Protocol, ...]:
        """The protocols at least one way was scored under."""
        return tuple(name for name in PROTOCOLS if any(name in way.protocols for way in self.ways))

    def scored(self, protocol: Protocol) -> tuple[WayResult, ...]:
        """Returns the ways that were scored under ``protocol``."""
        return tuple(way for way in self.ways if protocol in way.protocols)

    def to_json(self) -> dict[str, Any]:
        """Returns all of it as JSON."""
        return {
            "run": self.run,
            "status": self.status,
            "seed": self.seed,
            "scenario": self.scenario,
            "metric": self.metric,
            "lower_is_better": self.lower_is_better,
            "tasks": [asdict(task) for task in self.tasks],
            "started_at": self.started_at,
            "finished_at": self.finished_at,
            "base_model": asdict(self.base_model) if self.base_model else None,
            "ways": [way.to_json() for way in self.ways],
            "versions": [asdict(row) for row in self.lineage],
            "environment": dict(self.environment),
            "config": dict(self.config),
        }
