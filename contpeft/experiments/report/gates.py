"""How far gates have moved on earlier tasks' rows since these were learnt."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean

from contpeft.experiments.report.result import GateDrift, RunResult, WayResult
from contpeft.experiments.report.tables import Table

__all__ = ["GATES_NOTE", "gate_table"]

GATES_NOTE = (
    "sum over adapters of |weight now - weight when the task was learnt|, mean over its test rows; the "
    "adapters are frozen, so that nothing else has changed below the head"
)


def gate_table(result: RunResult) -> Table:
    """Returns one row for each earlier task of each way with gates, after its last step, and their mean.

    ``"earlier adapters"`` is how far the weights of the adapters have moved that were there when the task was
    learnt, ``"later adapters"`` what those that came later are given. There is no row where no way has gates.
    """
    rows = [row for way in result.ways if way.gate_drift for row in _rows(way)]
    return Table(["way", "task", "gates moved", "earlier adapters", "later adapters"], rows)


def _rows(way: WayResult) -> Iterator[list[str]]:
    for task, drift in way.gate_drift.items():
        yield [way.label, task, *_cells(drift)]
    each = list(way.gate_drift.values())
    if len(each) > 1:
        mean = GateDrift(fmean(drift.earlier for drift in each), fmean(drift.later for drift in each))
        yield [way.label, "mean", *_cells(mean)]


def _cells(drift: GateDrift) -> list[str]:
    return [f"{value:.3f}" for value in (drift.earlier + drift.later, drift.earlier, drift.later)]
