"""The report's tables as plain text cells, for a terminal or a page to set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from contpeft.experiments.report.aggregate import Aggregate
from contpeft.experiments.report.result import LineageRow, ProtocolResult, RunResult, WayResult
from contpeft.experiments.report.scale import UNDEFINED, Scale, scale_of
from contpeft.metrics import DEFINITIONS, Definition
from contpeft.spec import Protocol

__all__ = [
    "COPIED",
    "PROTOCOL_MEANINGS",
    "PROTOCOL_TITLES",
    "Table",
    "aggregate_table",
    "best_cells",
    "comparison_table",
    "lineage_table",
    "matrix_table",
]

PROTOCOL_TITLES: dict[Protocol, str] = {
    "task_aware": "task known",
    "seen_classes": "classes seen so far",
    "all_classes": "all classes",
}
"""What a model may answer under each protocol, in the words of tables and pictures."""

PROTOCOL_MEANINGS: dict[Protocol, str] = {
    "task_aware": "The task of each example is given; the answer is one of that task's classes.",
    "seen_classes": "The task is not given; the answer is one of the classes learned so far.",
    "all_classes": "The task is not given; the answer is one of all classes of the stream.",
}
"""The same in a sentence."""

COPIED = "="
"""What stands before a score that was not measured again, because nothing behind it had changed."""


class Table(NamedTuple):
    """A table as text.

    Attributes:
        header: one cell for each column.
        rows: as many cells each.
    """

    header: list[str]
    rows: list[list[str]]


def comparison_table(result: RunResult, protocol: Protocol) -> Table:
    """Returns one row for each way: its numbers under one protocol, and its training seconds."""
    scale = scale_of(result)
    rows = [
        [_label(way), *_numbers(way.protocols[protocol], scale), _seconds(way)]
        for way in result.scored(protocol)
    ]
    return Table(["way", *(d.symbol for d in DEFINITIONS), "seconds"], rows)


def best_cells(result: RunResult, protocol: Protocol) -> frozenset[tuple[str, int]]:
    """Returns (label, number's index in :data:`contpeft.metrics.DEFINITIONS`) of the best values.

    Bounds, and ways that did not learn task after task (their diagonal is not measured), do not
    compete, and nobody wins alone.
    """
    scored = {way.label: way.protocols[protocol].summary for way in result.scored(protocol) if not way.bound}
    rivals = {label: s.to_json() for label, s in scored.items() if s.learning_accuracy is not None}
    cells = set()
    for k, d in enumerate(DEFINITIONS):
        values = {label: value for label, row in rivals.items() if (value := row[d.field]) is not None}
        if len(values) < 2:
            continue
        smaller = d.loss or (result.lower_is_better and not d.signed)
        best = (min if smaller else max)(values.values())
        cells |= {(label, k) for label, value in values.items() if value == best}
    return frozenset(cells)


def matrix_table(result: RunResult, way: WayResult, protocol: Protocol) -> Table:
    """Returns the matrix of one way: one row for each step, and the forgetting of each task last."""
    scale, scored = scale_of(result), way.protocols[protocol]
    tasks = list(scored.matrix.tasks)
    rows = [
        [f"after {task}", *(_cell(scored, i, j, scale) for j in range(len(tasks)))]
        for i, task in enumerate(tasks)
    ]
    lost = [scale.text(value, signed=True) for value in scored.task_forgetting]
    return Table(["score on", *tasks], [*rows, ["forgetting", *lost]])


def lineage_table(result: RunResult) -> Table:
    """Returns one row for each version the run made."""
    header = ["version", "way", "after", "kind", "made from", "parameters", "digest"]
    return Table(header, [_lineage_row(row) for row in result.lineage])


def aggregate_table(results: Sequence[RunResult], rows: Sequence[Aggregate], protocol: Protocol) -> Table:
    """Returns one row for each way: mean and standard deviation of its numbers over several runs.

    Args:
        results: the runs.
        rows: what :func:`aggregate` made of them.
        protocol: the protocol.
    """
    scales = [scale_of(result) for result in results]
    scale = next((scale for scale in scales if not scale.percent), scales[0])
    cells = {(row.label, row.field): row for row in rows if row.protocol == protocol}
    labels = list(dict.fromkeys(label for label, _ in cells))
    table = [
        [label, *(_spread(cells[label, d.field], d, scale, len(results)) for d in DEFINITIONS)]
        for label in labels
    ]
    return Table(["way", *(d.symbol for d in DEFINITIONS)], table)


def _label(way: WayResult) -> str:
    return f"{way.label} (bound)" if way.bound else way.label


def _numbers(scored: ProtocolResult, scale: Scale) -> list[str]:
    values = scored.summary.to_json()
    return [scale.text(values[d.field], signed=d.signed) for d in DEFINITIONS]


def _seconds(way: WayResult) -> str:
    return UNDEFINED if way.seconds is None else f"{way.seconds:.0f}"


def _cell(scored: ProtocolResult, step: int, column: int, scale: Scale) -> str:
    value, task = scored.matrix.rows[step][column], scored.matrix.tasks[column]
    if value is None:
        return UNDEFINED
    return f"{COPIED} {scale.text(value)}" if (step, task) in scored.copied else scale.text(value)


def _lineage_row(row: LineageRow) -> list[str]:
    made_from = ", ".join(f"{parent.ref} ({parent.role})" for parent in row.parents) or UNDEFINED
    return [row.ref, row.way, row.task, row.kind, made_from, f"{row.parameters:,}", row.fingerprint[:12]]


def _spread(cell: Aggregate, definition: Definition, scale: Scale, runs: int) -> str:
    if cell.spread is None:
        return UNDEFINED
    mean, std, n = cell.spread
    text = scale.text(mean, signed=definition.signed)
    text = text if std is None else f"{text} \u00b1 {scale.text(std)}"
    return text if n == runs else f"{text} (n={n})"
