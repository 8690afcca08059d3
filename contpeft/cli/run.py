"""``contpeft run`` and ``contpeft report``: task sequences and what they measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from contpeft.cli.options import DEFAULT_STORE, StorePath
from contpeft.cli.output import Column, examples, print_lines, print_table
from contpeft.cli.progress import watching
from contpeft.cli.quiet import quiet_libraries

if TYPE_CHECKING:
    from contpeft.experiments.report import RunResult, Table

__all__ = ["REPORT_EXAMPLES", "RUN_EXAMPLES", "report", "run"]

RUN_EXAMPLES = examples(
    "contpeft run experiments/quickstart.yaml",
    "contpeft run experiments/quickstart.yaml --seed 1",
    "contpeft run my.yaml --store /data/adapters --name trial-2",
)
REPORT_EXAMPLES = examples("contpeft report quickstart", "contpeft report quickstart --report /tmp/reports")

Folder = Annotated[Path, typer.Option("--report", help="Folder that gets a folder per run.")]


def run(
    experiment: Annotated[Path, typer.Argument(help="The experiment, a YAML file.", metavar="FILE")],
    name: Annotated[str | None, typer.Option("--name", help="Another name for the run.")] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", help="Another seed; the run is then called NAME-seedN unless --name says more."
        ),
    ] = None,
    store: Annotated[
        Path | None, typer.Option("--store", envvar="CONTPEFT_STORE", help="Folder of the store.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--report", help="Folder that gets a folder per run.")
    ] = None,
) -> None:
    """Run a task sequence; a run that was stopped goes on at its first unfinished task."""
    from contpeft.experiments import load_experiment, run_experiment
    from contpeft.experiments.report import collect, write_report
    from contpeft.store import AdapterStore

    quiet_libraries()
    folders = {"store": store and str(store), "report": folder and str(folder)}
    told = {key: value for key, value in folders.items() if value}
    loaded = load_experiment(experiment, _named(experiment, name, seed) | told)
    with watching() as observer:
        run_experiment(loaded, observer)
    result = collect(AdapterStore(loaded.store), loaded.name)
    page = write_report(result, loaded.report / loaded.name)
    _print_result(result)
    _print_next_steps(result, loaded.store, page)


def report(
    run: Annotated[str, typer.Argument(help="Name of the run.", metavar="RUN")],
    store: StorePath = DEFAULT_STORE,
    folder: Folder = Path("reports"),
) -> None:
    """Write the report of a run (HTML, PNG, JSON) anew and print its tables."""
    from contpeft.experiments.report import collect, write_report
    from contpeft.store import AdapterStore

    result = collect(AdapterStore(store, create=False), run)
    page = write_report(result, folder / run)
    _print_result(result)
    print_lines(["", f"report  {page}"])


def _named(experiment: Path, name: str | None, seed: int | None) -> dict[str, Any]:
    if seed is None:
        return {} if name is None else {"name": name}
    from contpeft.experiments import load_experiment

    written = load_experiment(experiment)
    own = written.name if seed == written.seed else f"{written.name}-seed{seed}"
    return {"name": name or own, "seed": seed}


def _print_result(result: RunResult) -> None:
    from contpeft.experiments.report import (
        GATES_NOTE,
        comparison_table,
        gate_table,
        matrix_table,
        stage_table,
    )
    from contpeft.experiments.report.scale import scale_of
    from contpeft.experiments.report.tables import COPIED, PROTOCOL_TITLES

    unit = f"{result.metric} in %" if scale_of(result).percent else result.metric
    protocols = [protocol for protocol in PROTOCOL_TITLES if result.scored(protocol)]
    for protocol in protocols:
        for way in result.scored(protocol):
            copied = f"; {COPIED} copied, not measured again" if way.protocols[protocol].copied else ""
            print_lines(["", f"{way.label}, {PROTOCOL_TITLES[protocol]}: {unit}{copied}"])
            _print_table(matrix_table(result, way, protocol))
    for protocol in protocols:
        print_lines(["", f"{result.run}, {PROTOCOL_TITLES[protocol]}: {unit}"])
        _print_table(comparison_table(result, protocol))
    for protocol in protocols:
        stages = stage_table(result, protocol)
        if stages.rows:
            print_lines(["", f"which stage forgets, {PROTOCOL_TITLES[protocol]}: {unit}"])
            _print_table(stages)
    gates = gate_table(result)
    if gates.rows:
        print_lines(["", f"how far gates have moved on rows of earlier tasks: {GATES_NOTE}"])
        _print_table(gates)


def _print_table(table: Table) -> None:
    columns = [
        Column[list[str]](title, lambda row, place=place: row[place], right=place > 0)  # type: ignore[misc]
        for place, title in enumerate(table.header)
    ]
    print_table(table.rows, columns, indent=2)


def _print_next_steps(result: RunResult, store: Path, page: Path) -> None:
    ref = next((row.ref for row in reversed(result.lineage)), None)
    commands = [f"contpeft store list --store {store}"]
    if ref is not None:
        commands.append(f"contpeft store show {ref} --store {store}")
        commands.append(f"contpeft store log {ref.partition('@')[0]} --store {store}")
    commands.append(f"contpeft report {result.run} --store {store}")
    print_lines(["", f"store   {store}", f"report  {page}", "next:", *(f"  {each}" for each in commands)])
