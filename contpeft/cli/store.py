"""``contpeft store``: look at the versions a store holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.filesize import decimal

from contpeft.cli.options import DEFAULT_STORE, AsJson, StorePath
from contpeft.cli.output import (
    Column,
    examples,
    print_csv,
    print_details,
    print_json,
    print_json_lines,
    print_lines,
    print_table,
)
from contpeft.errors import UsageError
from contpeft.spec import HeadSpec, Parent, Score, Version
from contpeft.store import AdapterStore

__all__ = ["app"]

app = typer.Typer(help="Look at the versions a store holds.", no_args_is_help=True)

Ref = Annotated[str, typer.Argument(help="A version: name, name@3, name@latest or sha256:ab12cd34.")]


def _when(created_at: str) -> str:
    return created_at[:16].replace("T", " ")


def _parents(parents: tuple[Parent, ...]) -> str:
    return ", ".join(
        f"{parent.ref} ({parent.role}{'' if parent.weight is None else f' {parent.weight:g}'})"
        for parent in parents
    )


LIST: Final[tuple[Column[Version], ...]] = (
    Column("ref", lambda v: v.ref),
    Column("kind", lambda v: v.kind),
    Column("task", lambda v: v.task),
    Column("run", lambda v: v.run),
    Column("base", lambda v: v.base.name),
    Column("parameters", lambda v: v.parameters, "{:,}".format, right=True),
    Column("bytes", lambda v: v.bytes, decimal, right=True),
    Column("created_at", lambda v: v.created_at, _when),
)
LOG: Final[tuple[Column[Version], ...]] = (
    Column("ref", lambda v: v.ref),
    Column("created_at", lambda v: v.created_at, _when),
    Column("origin", lambda v: v.origin),
    Column("task", lambda v: v.task),
    Column("run", lambda v: v.run),
    Column("parents", lambda v: _parents(v.parents) or None),
)
SCORES: Final[tuple[Column[Score], ...]] = (
    Column("answer", lambda s: s.answer),
    Column("task", lambda s: s.task),
    Column("protocol", lambda s: s.protocol),
    Column("metric", lambda s: s.metric),
    Column("value", lambda s: s.value, "{:.4f}".format, right=True),
    Column("n", lambda s: s.n, "{:,}".format, right=True),
)
PRINTERS: Final[dict[str, Callable[[list[Version]], None]]] = {
    "--json": lambda found: print_json([version.to_json() for version in found]),
    "--nl": lambda found: print_json_lines(version.to_json() for version in found),
    "--csv": lambda found: print_csv(found, LIST),
    "-q": lambda found: print_lines(version.ref for version in found),
}


@app.command(
    "list",
    epilog=examples(
        "contpeft store list",
        "contpeft store list --kind lora --task tickets --json",
        "contpeft store list --name billing -q",
    ),
)
def list_versions(
    store: StorePath = DEFAULT_STORE,
    name: Annotated[str | None, typer.Option(help="Versions of this adapter.")] = None,
    run: Annotated[str | None, typer.Option(help="Versions this run made.")] = None,
    task: Annotated[str | None, typer.Option(help="States after this task.")] = None,
    kind: Annotated[str | None, typer.Option(help="Versions of this method.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    before: Annotated[str | None, typer.Option(metavar="REF", help="Older than this version.")] = None,
    as_json: AsJson = False,
    as_lines: Annotated[bool, typer.Option("--nl", help="Print one JSON object a line.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print comma-separated values.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print references only.")] = False,
) -> None:
    """List versions, newest first."""
    printer = _printer({"--json": as_json, "--nl": as_lines, "--csv": as_csv, "-q": quiet})
    with _open(store) as opened:
        found = opened.versions(name=name, run=run, task=task, kind=kind, limit=limit + 1, before=before)
    page = found[:limit]
    printer(page)
    if len(found) > limit:
        typer.echo(f"{limit} shown; older ones: --before {page[-1].ref}", err=True)


@app.command(
    epilog=examples(
        "contpeft store show billing",
        "contpeft store show billing@3 --json",
        "contpeft store show sha256:ab12cd34",
    ),
)
def show(ref: Ref, store: StorePath = DEFAULT_STORE, as_json: AsJson = False) -> None:
    """Show one version: where it comes from, what it is, how it scored."""
    with _open(store) as opened:
        version = opened.show(ref)
        children = opened.children(version.ref)
        scores = _scores(opened, version)
    if as_json:
        cells = [{column.name: column.value(score) for column in SCORES} for score in scores]
        print_json({**version.to_json(), "children": children, "scores": cells})
        return
    print_lines([version.ref])
    print_details(_summary(version, children))
    print_lines(["", "config"])
    print_details(version.config)
    if scores:
        print_lines(["", "scores"])
        print_table(scores, SCORES, indent=2)
    print_lines(["", "environment"])
    print_details(version.environment)


@app.command(
    epilog=examples(
        "contpeft store log billing",
        "contpeft store log billing@3 --json",
    ),
)
def log(ref: Ref, store: StorePath = DEFAULT_STORE, as_json: AsJson = False) -> None:
    """Tell the history of an adapter up to a version, newest first."""
    with _open(store) as opened:
        last = opened.show(ref)
        line = [last, *opened.versions(name=last.name, before=last.ref)]
    if as_json:
        print_json([version.to_json() for version in line])
    else:
        print_table(line, LOG)


@app.command(
    epilog=examples(
        "contpeft store path",
        "sqlite3 -readonly $(contpeft store path) 'SELECT ref, task FROM version_list'",
    ),
)
def path(store: StorePath = DEFAULT_STORE) -> None:
    """Print where the catalogue is, a SQLite file."""
    with _open(store) as opened:
        print_lines([str(opened.path / "store.db")])


@contextmanager
def _open(path: Path) -> Iterator[AdapterStore]:
    opened = AdapterStore(path, create=False)
    try:
        yield opened
    finally:
        opened.close()


def _printer(flags: dict[str, bool]) -> Callable[[list[Version]], None]:
    given = [flag for flag, is_given in flags.items() if is_given]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} cannot be given together; choose one")
    return PRINTERS[given[0]] if given else lambda found: print_table(found, LIST)


def _scores(store: AdapterStore, version: Version) -> list[Score]:
    """Returns the scores after the steps that made a version; of its whole run when that has no steps."""
    if version.run is None:
        return []
    scores = [score for score in store.scores(run=version.run) if score.kind == "end"]
    steps = store.steps(version.run)
    made = {(step.way, step.step) for step in steps if version.ref in step.versions}
    return [score for score in scores if (score.way, score.step) in made] if steps else scores


def _summary(version: Version, children: list[str]) -> dict[str, Any]:
    return {
        "kind": version.kind,
        "origin": version.origin,
        "base": f"{version.base.name} ({version.base.parameters:,} parameters)",
        "task": version.task,
        "run": version.run,
        "data": version.data,
        "parents": _parents(version.parents) or None,
        "children": ", ".join(children) or None,
        "recipe": None if version.recipe is None else dict(version.recipe),
        "head": _head(version.head) if version.head else None,
        "parameters": f"{version.parameters:,}",
        "size": decimal(version.bytes),
        "seconds": None if version.seconds is None else f"{version.seconds:.1f}",
        "sha256": version.sha256,
        "created": version.created_at,
    }


def _head(head: HeadSpec) -> str:
    return f"{head.kind}, {len(head.classes)} classes" if head.classes else head.kind
