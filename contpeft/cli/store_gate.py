"""``contpeft store gate``: may a version replace another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from contpeft.cli.evaluating import EvaluationFile, Heads, Rows, open_evaluation, parse_heads
from contpeft.cli.gate_tables import print_report
from contpeft.cli.options import DEFAULT_STORE, AsJson, Ref, StorePath, complete, open_store
from contpeft.cli.output import examples, hint, print_json, print_lines
from contpeft.errors import UsageError

if TYPE_CHECKING:
    from contpeft.experiments.evaluation import Evaluation
    from contpeft.experiments.gate_report import GateReport
    from contpeft.store import AdapterStore

__all__ = ["GATE_EXAMPLES", "gate"]

GATE_EXAMPLES: Final = examples(
    "contpeft store gate billing@4 --against billing@champion --eval experiments/quickstart.yaml",
    "contpeft store gate both --against billing --eval eval.yaml --per-task --slice lang --rows 500",
    "contpeft store gate both --against billing --eval eval.yaml --repair --name repaired",
)


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
    mend: Annotated[
        bool, typer.Option("--repair", help="Store as much of the candidate's change as passes.")
    ] = False,
    name: Annotated[
        str | None, typer.Option(help="With --repair: of which adapter; the candidate's own otherwise.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare two versions; fail if one forgot too much.

    It passes with exit code 0 and fails with 1. Both answer the test rows of every task of the file. The
    measured loss decides; intervals and p-values say what chance could do. What was measured is kept in
    the store.
    """
    from contpeft.experiments.gate import gate as compare
    from contpeft.experiments.gate_report import Terms

    if name is not None and not mend:
        raise UsageError("--name says what a repaired version is called; give --repair too")
    terms = Terms(max_forgetting, per_task, tuple(slices) if slices else None, alpha, protocol)
    with open_store(store) as opened:
        asked = open_evaluation(opened, evaluation, rows, parse_heads(heads))
        report = compare(asked, candidate, against, terms)
        if not as_json:
            print_lines(report.verdict()) if report.passed else print_report(report)
        repaired = _repair(asked, opened, report, name) if mend and not report.passed else None
    if as_json:
        print_json(report.to_json() | {"repaired": repaired})
    elif repaired:
        print_lines([repaired["told"], *repaired["verdict"]])
    if not (report.passed or repaired):
        raise typer.Exit(1)


def _repair(
    asked: Evaluation, opened: AdapterStore, report: GateReport, name: str | None
) -> dict[str, Any] | None:
    """Stores as much of the candidate's change as passes; returns what that is, None if nothing passes."""
    from contpeft.experiments.gate import gate as compare
    from contpeft.experiments.repair import repair

    found = repair(asked, opened, report.candidate, report.champion, report.terms)
    if found is None:
        hint("not repaired: no share of the change from 0.1 to 0.9 passes; nothing was stored")
        return None
    version = opened.fusion.keep(found.candidate, name or report.candidate.partition("@")[0])
    told = (
        f"repaired: {version.ref} is {found.share:g} of the way from {report.champion} to {report.candidate}"
    )
    after = compare(asked, version.ref, report.champion, report.terms)
    return {"ref": version.ref, "share": found.share, "told": told, **after.to_json()}
