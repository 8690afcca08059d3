"""``contpeft store gate``: may a version replace another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from contpeft.cli.options import DEFAULT_STORE, AsJson, Ref, StorePath, complete, open_store
from contpeft.cli.output import Column, examples, print_json, print_lines, print_table
from contpeft.cli.quiet import quiet_libraries
from contpeft.errors import UsageError

if TYPE_CHECKING:
    from contpeft.experiments.gate_report import GateReport, SliceChange, WrongRow
    from contpeft.metrics.paired import Comparison

__all__ = ["GATE_EXAMPLES", "EvaluationFile", "Heads", "Rows", "gate", "parse_heads"]

GATE_EXAMPLES: Final = examples(
    "contpeft store gate billing@4 --against billing@champion --eval experiments/quickstart.yaml",
    "contpeft store gate both --against billing --eval eval.yaml --per-task --slice lang --rows 500",
    "contpeft store gate both --against billing --eval eval.yaml --max-forgetting 0 --json",
)
_SHOWN: Final = 20

EvaluationFile = Annotated[
    Path, typer.Option("--eval", metavar="FILE", help="An evaluation or experiment file (YAML).")
]
Heads = Annotated[
    list[str] | None,
    typer.Option(
        "--head", metavar="TASK=REF", help="Whose head answers a task, for versions without one of it."
    ),
]
Rows = Annotated[int | None, typer.Option(min=1, help="At most so many test rows of each task.")]


def gate(
    candidate: Ref,
    against: Annotated[
        str,
        typer.Option(metavar="CHAMPION", help="The version it is measured against.", autocompletion=complete),
    ],
    evaluation: EvaluationFile,
    store: StorePath = DEFAULT_STORE,
    max_forgetting: Annotated[
        float, typer.Option(min=0, max=1, help="How much accuracy may be lost, 0.01 for one percent.")
    ] = 0.01,
    per_task: Annotated[
        bool, typer.Option("--per-task", help="No task may lose more, not only their mean.")
    ] = False,
    slices: Annotated[
        list[str] | None,
        typer.Option("--slice", metavar="COLUMN", help="Break down by this column, or by label, only."),
    ] = None,
    alpha: Annotated[float, typer.Option(help="Intervals cover the truth with 1 - alpha.")] = 0.05,
    rows: Rows = None,
    heads: Heads = None,
    protocol: Annotated[
        Literal["task_aware", "all_classes"], typer.Option(help="Which classes may be answered.")
    ] = "task_aware",
    as_json: AsJson = False,
) -> None:
    """Compare two versions; fail if one forgot too much.

    It passes with exit code 0 and fails with 1. Both answer the test rows of every task of the file. The
    measured loss decides; intervals and p-values say what chance could do. What was measured is kept in
    the store.
    """
    from contpeft.experiments.config import load_evaluation
    from contpeft.experiments.evaluation import Evaluation
    from contpeft.experiments.gate import gate as compare

    quiet_libraries()
    with open_store(store) as opened:
        asked = Evaluation(load_evaluation(evaluation), opened, rows=rows, heads=parse_heads(heads))
        report = compare(
            asked,
            candidate,
            against,
            max_forgetting=max_forgetting,
            per_task=per_task,
            slices=slices or None,
            alpha=alpha,
            protocol=protocol,
        )
    if as_json:
        print_json(report.to_json())
    elif report.passed:
        print_lines(report.verdict())
    else:
        _print_report(report)
    if not report.passed:
        raise typer.Exit(1)


def parse_heads(texts: list[str] | None) -> dict[str, str]:
    """Returns ``task=ref`` texts as a mapping."""
    pairs = [text.partition("=") for text in texts or ()]
    for task, _, ref in pairs:
        if not task or not ref:
            raise UsageError(f"--head {task!r} is no TASK=REF; write --head billing=billing@3")
    return {task: ref for task, _, ref in pairs}


def _print_report(report: GateReport) -> None:
    known = "task known" if report.protocol == "task_aware" else "all classes"
    print_lines([f"{report.candidate} against {report.champion}, {known}: {report.metric} in %"])
    _print_tasks(report)
    if report.slices:
        _print_slices(report)
    if report.wrong:
        _print_wrong(report.wrong)
    print_lines(["", *report.verdict()])


def _print_tasks(report: GateReport) -> None:
    rows: list[tuple[str, Comparison]] = [(each.task, each.change) for each in report.tasks]
    columns: list[Column[tuple[str, Comparison]]] = [
        Column("task", lambda row: row[0]),
        *_numbers(lambda row: row[1]),
        Column(
            f"{100 * (1 - report.alpha):g} % interval",
            lambda row: f"{_signed(row[1].low)} to {_signed(row[1].high)}",
            right=True,
        ),
        Column("p", lambda row: row[1].p, _probability, right=True),
    ]
    print_table([*rows, ("mean", report.mean)], columns, indent=2)
    borrowed = {each.candidate for each in report.tasks} | {each.champion for each in report.tasks}
    for each in sorted(borrowed - {report.candidate, report.champion}):
        print_lines([f"  {each}"])


def _print_slices(report: GateReport) -> None:
    lost, allowed = report.lost_slices, f"more than {100 * report.max_forgetting:g}"
    if not lost:
        print_lines(["", f"of {len(report.slices)} slices none lost {allowed}"])
        return
    print_lines(["", f"slices that lost {allowed} (p corrected for {len(report.slices)} slices):"])
    columns: list[Column[SliceChange]] = [
        Column("slice", lambda each: f"{each.column}={each.value}"),
        *_numbers(lambda each: each.change),
        Column("p", lambda each: each.p, _probability, right=True),
    ]
    print_table(lost, columns, indent=2)


def _print_wrong(rows: tuple[WrongRow, ...]) -> None:
    print_lines(["", f"rows that turned wrong: {len(rows)}"])
    columns: list[Column[WrongRow]] = [
        Column("row", lambda row: row.id),
        Column("task", lambda row: row.task),
        Column("label", lambda row: row.label),
        Column("answered", lambda row: row.answered),
        Column("input", lambda row: row.input),
    ]
    print_table(rows[:_SHOWN], columns, indent=2)
    if len(rows) > _SHOWN:
        print_lines([f"  and {len(rows) - _SHOWN} more; --json lists all"])


def _numbers(change: Callable[[Any], Comparison]) -> list[Column[Any]]:
    return [
        Column("n", lambda row: change(row).n, "{:,}".format, right=True),
        Column("champion", lambda row: change(row).before, _percent, right=True),
        Column("candidate", lambda row: change(row).after, _percent, right=True),
        Column("difference", lambda row: change(row).difference, _signed, right=True),
    ]


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _signed(share: float) -> str:
    return f"{round(100 * share, 1) + 0.0:+.1f}"


def _probability(p: float) -> str:
    return f"{p:.3f}" if p >= 0.0005 else "<0.001"
