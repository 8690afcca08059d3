"""``contpeft store list`` and ``query``: which versions there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeVar

import typer
from rich.filesize import decimal

from contpeft.cli.options import (
    DEFAULT_STORE,
    AsCsv,
    AsJson,
    AsLines,
    StorePath,
    complete,
    open_store,
    parse_moment,
    parse_pair,
)
from contpeft.cli.output import (
    Column,
    examples,
    hint,
    print_csv,
    print_json,
    print_json_lines,
    print_lines,
    print_table,
    show_time,
)
from contpeft.errors import UsageError
from contpeft.spec import Protocol, Version
from contpeft.store import AdapterStore, Sort

__all__ = ["LIST_EXAMPLES", "QUERY_EXAMPLES", "list_versions", "query"]

LIST_EXAMPLES: Final = examples(
    "contpeft store list --kind lora --task tickets --json",
    "contpeft store list --metric 'accuracy>=0.9' --sort metric",
    "contpeft store list --tag draft --older 90d -q",
)
QUERY_EXAMPLES: Final = examples(
    "contpeft store query 'SELECT ref, accuracy FROM version_list ORDER BY accuracy DESC LIMIT 5'",
    "contpeft store query \"SELECT task, forgetting FROM forgetting WHERE run = 'demo'\" --csv",
)

Item = TypeVar("Item")


@dataclass(frozen=True)
class Entry:
    """A version with what people call it."""

    version: Version
    aliases: tuple[str, ...]
    tags: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Returns the entry as JSON."""
        return {**self.version.to_json(), "aliases": list(self.aliases), "tags": self.tags}


LIST: Final[tuple[Column[Entry], ...]] = (
    Column("ref", lambda e: e.version.ref),
    Column("aliases", lambda e: " ".join(e.aliases) or None),
    Column("kind", lambda e: e.version.kind),
    Column("task", lambda e: e.version.task),
    Column("run", lambda e: e.version.run),
    Column("base", lambda e: e.version.base.name),
    Column("parameters", lambda e: e.version.parameters, "{:,}".format, right=True),
    Column("bytes", lambda e: e.version.bytes, decimal, right=True),
    Column("created_at", lambda e: e.version.created_at, show_time),
)


def list_versions(
    store: StorePath = DEFAULT_STORE,
    name: Annotated[str | None, typer.Option(help="Versions of this adapter.")] = None,
    run: Annotated[str | None, typer.Option(help="Versions this run made.")] = None,
    task: Annotated[str | None, typer.Option(help="States after this task.")] = None,
    kind: Annotated[str | None, typer.Option(help="Versions of this method.")] = None,
    base: Annotated[str | None, typer.Option(help="On the base model of this name.")] = None,
    tag: Annotated[list[str] | None, typer.Option(metavar="KEY[=VALUE]", help="With this tag.")] = None,
    alias: Annotated[str | None, typer.Option(help="That an alias of this name stands for.")] = None,
    since: Annotated[str | None, typer.Option(metavar="TIME", help="Since 2026-11-22, or for 7d.")] = None,
    older: Annotated[str | None, typer.Option(metavar="TIME", help="Before that time.")] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="With this value of a column (origin, ...) or of config.KEY."),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METRIC",
            help="That scored so: 'accuracy>=0.9' on the tasks so far, 'accuracy@mail>=0.9' on one.",
        ),
    ] = None,
    protocol: Annotated[Protocol, typer.Option(help="Which scores --metric means.")] = "task_aware",
    sort: Annotated[Sort, typer.Option(help="The order; metric is the first --metric.")] = "created",
    reverse: Annotated[bool, typer.Option("--reverse", help="Turn the order round.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    before: Annotated[
        str | None,
        typer.Option(metavar="REF", help="Go on after this version.", autocompletion=complete),
    ] = None,
    as_json: AsJson = False,
    as_lines: AsLines = False,
    as_csv: AsCsv = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print references only.")] = False,
) -> None:
    """List versions, newest first."""
    printer = _printer(LIST, as_json=as_json, as_lines=as_lines, as_csv=as_csv, quiet=quiet)
    with open_store(store) as opened:
        found = opened.versions(
            name=name,
            run=run,
            task=task,
            kind=kind,
            base=base,
            tags=tag or (),
            alias=alias,
            since=parse_moment(since) if since else None,
            until=parse_moment(older) if older else None,
            where=dict(map(parse_pair, where or ())),
            metrics=metric or (),
            protocol=protocol,
            sort=sort,
            reverse=reverse,
            limit=limit + 1,
            before=before,
        )
        page = _entries(opened, found[:limit])
    printer(page, Entry.to_json, lambda entry: entry.version.ref)
    if len(found) > limit:
        hint(f"{limit} shown; older ones: --before {found[limit - 1].ref}")


def query(
    sql: Annotated[str, typer.Argument(help="One SELECT.")],
    store: StorePath = DEFAULT_STORE,
    as_json: AsJson = False,
    as_lines: AsLines = False,
    as_csv: AsCsv = False,
) -> None:
    """Ask the catalogue in SQL; it can only be read."""
    with open_store(store) as opened:
        answer = opened.inspect.query(sql)
    columns = [
        Column[tuple[Any, ...]](title, lambda row, place=place: row[place])  # type: ignore[misc]
        for place, title in enumerate(answer.columns)
    ]
    printer = _printer(columns, as_json=as_json, as_lines=as_lines, as_csv=as_csv, quiet=False)
    printer(answer.rows, lambda row: dict(zip(answer.columns, row, strict=True)), str)


def _entries(store: AdapterStore, page: Sequence[Version]) -> list[Entry]:
    refs = [version.ref for version in page]
    aliases, tags = (store.aliases.of(*refs), store.tags.of(*refs)) if refs else ({}, {})
    return [Entry(v, aliases.get(v.ref, ()), tags.get(v.ref, {})) for v in page]


def _printer(
    columns: Sequence[Column[Item]], *, as_json: bool, as_lines: bool, as_csv: bool, quiet: bool
) -> Callable[[Sequence[Item], Callable[[Item], Any], Callable[[Item], str]], None]:
    """Returns what prints a listing: the one format asked for, or a table."""
    flags = {"--json": as_json, "--nl": as_lines, "--csv": as_csv, "-q": quiet}
    given = [flag for flag, is_given in flags.items() if is_given]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} cannot be given together; choose one")

    def print_items(items: Sequence[Item], value: Callable[[Item], Any], ref: Callable[[Item], str]) -> None:
        if as_json:
            print_json([value(item) for item in items])
        elif as_lines:
            print_json_lines(value(item) for item in items)
        elif as_csv:
            print_csv(items, columns)
        elif quiet:
            print_lines(ref(item) for item in items)
        else:
            print_table(items, columns)

    return print_items
