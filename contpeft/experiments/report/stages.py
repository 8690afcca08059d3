"""Which stage of a way forgets: its answers before and after what is done at the end of a task."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from contpeft.experiments.report.result import RunResult, WayResult
from contpeft.experiments.report.scale import Scale, scale_of
from contpeft.experiments.report.tables import Table
from contpeft.spec import Protocol

__all__ = ["STAGE", "stage_table"]

STAGE: Final = "before-"
"""What the name of an answer begins with that is a stage: the way's main answer before some action."""


def stage_table(result: RunResult, protocol: Protocol) -> Table:
    """Returns one row for each stage of each way that has any, in the order in which they follow each other.

    A stage is an answer named ``before-merge``, ``before-alignment`` and so on, in the order in which the
    recipe names them; the last stage is the way's main answer. The differences are those to the stage above,
    so that a column shows what each action gave or took. There is no row where no way has a stage.
    """
    scale = scale_of(result)
    rows = [row for stages in _staged(result.scored(protocol)) for row in _rows(stages, protocol, scale)]
    return Table(["way", "stage", "ACC", "BWT", "ACC gained", "BWT gained"], rows)


def _staged(ways: Sequence[WayResult]) -> list[list[WayResult]]:
    """Returns the stages of each way that has any, its main answer last."""
    found = []
    for name in dict.fromkeys(way.way for way in ways):
        own = [way for way in ways if way.way == name]
        stages = [way for way in own if way.answer.startswith(STAGE)]
        last = [way for way in own if way.answer == "main"]
        if stages and last:
            found.append([*stages, *last])
    return found


def _rows(stages: Sequence[WayResult], protocol: Protocol, scale: Scale) -> list[list[str]]:
    numbers = [stage.protocols[protocol].summary for stage in stages]
    gains = [(None, None), *((_less(b.acc, a.acc), _less(b.bwt, a.bwt)) for a, b in pairwise(numbers))]
    return [
        [
            stages[-1].label,
            "at the end" if stage is stages[-1] else stage.answer.replace("-", " "),
            scale.text(number.acc),
            scale.text(number.bwt, signed=True),
            *(scale.text(gain, signed=True) for gain in gained),
        ]
        for stage, number, gained in zip(stages, numbers, gains, strict=True)
    ]


def _less(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value - other
