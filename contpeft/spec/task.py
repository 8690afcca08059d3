"""Tasks and the scores measured on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

__all__ = ["PROTOCOLS", "SCENARIOS", "TASK_HITS", "Protocol", "Scenario", "Score", "Task"]

Protocol = Literal["task_aware", "seen_classes", "all_classes"]
PROTOCOLS: tuple[Protocol, ...] = ("task_aware", "seen_classes", "all_classes")

Scenario = Literal["class-incremental", "task-incremental", "domain-incremental"]
SCENARIOS: tuple[Scenario, ...] = ("class-incremental", "task-incremental", "domain-incremental")

TASK_HITS: Final = "task_hits"
"""The metric that tells how often a row got a label of its own task: how well the task was inferred."""


@dataclass(frozen=True)
class Task:
    """A data set with a name, a label space and a metric.

    Attributes:
        name: unique within its stream.
        classes: label names, in the order of the task's own outputs.
        metric: name of the score; ``"accuracy"``.
        lower_is_better: whether a smaller score is a better one.
    """

    name: str
    classes: tuple[str, ...]
    metric: str = "accuracy"
    lower_is_better: bool = False


@dataclass(frozen=True)
class Score:
    """One measured cell.

    Attributes:
        run: the run it belongs to.
        step: index of the last task trained when it was measured; -1 for the untouched base.
        way: which strategy of the run.
        answer: which of the strategy's answers (``"main"``, ``"class-means"``, ...).
        task: the task it was measured on.
        protocol: which classes could be answered, see :data:`PROTOCOLS`.
        metric: name of the score.
        value: the score, in the metric's own unit (accuracy: 0 to 1).
        n: number of examples behind it.
        composition: digest of what answered.
        data: digest of the examples.
        copied: True if an equal composition was measured on equal data before, and that value
            stands here.
        kind: ``"end"`` for a cell of the matrix; ``"start"`` for the score on a task after its
            head was started and before its first training step (what FWT compares with the base).
    """

    run: str
    way: str
    answer: str
    step: int
    task: str
    protocol: Protocol
    metric: str
    value: float
    n: int
    composition: str
    data: str
    copied: bool = False
    kind: Literal["end", "start"] = "end"
