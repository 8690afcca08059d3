"""The report of a run: collected from the store, set as tables, drawn, and written as one page."""

from __future__ import annotations

from contpeft.experiments.report.aggregate import Aggregate, aggregate
from contpeft.experiments.report.attention import attention_picture
from contpeft.experiments.report.collect import collect
from contpeft.experiments.report.curves import accuracy_bars, task_curves
from contpeft.experiments.report.gates import GATES_NOTE, gate_table
from contpeft.experiments.report.heatmaps import heat_map, heat_map_grid
from contpeft.experiments.report.lineage import lineage_picture
from contpeft.experiments.report.page import write_report
from contpeft.experiments.report.result import GateDrift, LineageRow, ProtocolResult, RunResult, WayResult
from contpeft.experiments.report.spectra import inspection_picture
from contpeft.experiments.report.stages import stage_table
from contpeft.experiments.report.tables import (
    Table,
    aggregate_table,
    comparison_table,
    lineage_table,
    matrix_table,
)

__all__ = [
    "GATES_NOTE",
    "Aggregate",
    "GateDrift",
    "LineageRow",
    "ProtocolResult",
    "RunResult",
    "Table",
    "WayResult",
    "accuracy_bars",
    "aggregate",
    "aggregate_table",
    "attention_picture",
    "collect",
    "comparison_table",
    "gate_table",
    "heat_map",
    "heat_map_grid",
    "inspection_picture",
    "lineage_picture",
    "lineage_table",
    "matrix_table",
    "stage_table",
    "task_curves",
    "write_report",
]
