"""How a gate's report is printed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from contpeft.cli.output import Column, print_lines, print_table

if TYPE_CHECKING:
    from contpeft.experiments.gate_report import GateReport, SliceChange, WrongRow
    from contpeft.metrics.paired import Comparison

__all__ = ["print_report"]

_SHOWN: Final = 20


def print_report(report: GateReport) -> None:
    """Prints what a candidate that failed has lost: tasks, slices and rows, and the verdict."""
    known = "task known" if report.terms.protocol == "task_aware" else "all classes"
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
            f"{100 * (1 - report.terms.alpha):g} % interval",
            lambda row: f"{_signed(row[1].low)} to {_signed(row[1].high)}",
            right=True,
        ),
        Column("p", lambda row: row[1].p, _probability, right=True),
    ]
    print_table([*rows, ("mean", report.mean)], columns, indent=2)
    for ref, singles in {
        report.champion: [each.champion for each in report.tasks],
        report.candidate: [each.candidate for each in report.tasks],
    }.items():
        heads = dict.fromkeys(single.head for single in singles if single.head)
        if heads:
            print_lines([f"  {ref} answers with the heads of {', '.join(heads)}"])


def _print_slices(report: GateReport) -> None:
    lost, allowed = report.lost_slices, f"more than {100 * report.terms.max_forgetting:g}"
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
