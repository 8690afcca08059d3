"""Which recipes to try, from a few facts about the tasks and from what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from contpeft.spec import Scenario
from contpeft.strategies.about import GROWING
from contpeft.strategies.catalogue import RecipeRow, recipe_rows
from contpeft.strategies.measured import Measured, measured

__all__ = ["Advice", "Facts", "recommend"]


@dataclass(frozen=True)
class Facts:
    """What is known about the tasks to come.

    Attributes:
        task_id: whether the task of a row is known when it is asked.
        old_data: whether rows of earlier tasks may be kept.
        constant: whether memory must not grow by an adapter, or by prompts, a task.
        shared_labels: whether all tasks have the same labels.
        texts: whether rows are texts.
    """

    task_id: bool = False
    old_data: bool = False
    constant: bool = False
    shared_labels: bool = False
    texts: bool = True

    @property
    def scenario(self) -> Scenario:
        """The scenario they make."""
        if self.task_id:
            return "task-incremental"
        return "domain-incremental" if self.shared_labels else "class-incremental"


@dataclass(frozen=True)
class Advice:
    """One recipe that serves.

    Attributes:
        name: of the recipe.
        what: the idea in one line.
        growth: what it keeps for every task.
        gap: mean over the streams of this scenario of the accuracy of its main answer (or, where it has none,
            its best) less that of ``joint``, in points; None where it was not measured.
        streams: on which it was measured.
    """

    name: str
    what: str
    growth: tuple[str, ...]
    gap: float | None
    streams: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Returns the advice as JSON."""
        return asdict(self)


def recommend(facts: Facts, table: Sequence[Measured] | None = None) -> list[Advice]:
    """Returns the recipes that serve, those that came nearest to joint training (or beyond) first.

    Args:
        facts: about the tasks.
        table: what was measured; the package's own without it.
    """
    rows = measured() if table is None else table
    found = [_advice(row, facts.scenario, rows) for row in recipe_rows() if _serves(row, facts)]
    return sorted(found, key=lambda each: (each.gap is None, -(each.gap or 0.0), each.name))


def _serves(row: RecipeRow, facts: Facts) -> bool:
    return (
        facts.scenario in row.scenarios
        and not row.joint
        and (facts.task_id or "task id" not in row.needs)
        and (facts.old_data or "old data" not in row.needs)
        and (facts.texts or "texts" not in row.needs)
        and not (facts.constant and GROWING.intersection(row.growth))
    )


def _advice(row: RecipeRow, scenario: Scenario, table: Sequence[Measured]) -> Advice:
    joint = {each.stream: each for each in table if each.way == "joint" and each.answer == "main"}
    found = {
        stream: _gap([each for each in table if (each.way, each.stream) == (row.name, stream)], bound)
        for stream, bound in joint.items()
        if bound.scenario == scenario
    }
    gaps = {stream: gap for stream, gap in found.items() if gap is not None}
    return Advice(row.name, row.what, row.growth, 100 * fmean(gaps.values()) if gaps else None, tuple(gaps))


def _gap(answers: Sequence[Measured], bound: Measured) -> float | None:
    """Returns how far a way's main answer is above a bound; its best one where none is the main one."""
    gaps = {each.answer: gap for each in answers if (gap := each.above(bound)) is not None}
    return gaps.get("main", max(gaps.values(), default=None))
