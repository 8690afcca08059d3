"""``contpeft methods``: which adapters there are, and what each would be in a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.filesize import decimal

from contpeft.cli.options import AsJson
from contpeft.cli.output import Column, examples, hint, print_json, print_lines, print_table
from contpeft.errors import UsageError

if TYPE_CHECKING:
    from contpeft.adapters.catalogue import MethodRow

__all__ = ["METHODS_EXAMPLES", "methods"]

METHODS_EXAMPLES: Final = examples(
    "contpeft methods",
    "contpeft methods --model minilm",
    "contpeft methods --model models/llama --json",
)


def methods(
    model: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="A transformers model folder, or minilm; else MiniLM's shape."),
    ] = None,
    as_json: AsJson = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the page of the documentation.")
    ] = False,
) -> None:
    """List the adapter methods: what each trains, costs and changes in a model, who merges and reads it.

    FLOPs are those a token takes more than through the bare base, matrix products alone.
    """
    if markdown and (as_json or model):
        raise UsageError("--markdown prints one page for MiniLM's shape; leave --json and --model out")
    from contpeft.adapters.catalogue import catalogue, reference_model
    from contpeft.adapters.methods_page import methods_page
    from contpeft.adapters.pretrained import load_base
    from contpeft.experiments.archives import resolve_model

    rows = catalogue(load_base(Path(resolve_model(model)), ()) if model else reference_model())
    if markdown:
        print(methods_page(rows), end="")
    elif as_json:
        print_json([row.to_json() for row in rows])
    else:
        _print(rows)


def _print(rows: list[MethodRow]) -> None:
    columns: tuple[Column[MethodRow], ...] = (
        Column("method", lambda row: row.method),
        Column("trains", lambda row: row.trainable, "{:,}".format, right=True),
        Column("share", lambda row: row.share, "{:.3%}".format, right=True),
        Column("stores", lambda row: row.stored, "{:,}".format, right=True),
        Column("bytes", lambda row: row.bytes, decimal, right=True),
        Column("FLOPs", lambda row: row.flops, "{:,}".format, right=True),
        Column("merge", lambda row: row.merged_by),
        Column("composes", lambda row: ", ".join(row.composes)),
        Column("read by", lambda row: row.read_by),
        Column("changes", lambda row: row.changes),
    )
    print_table(rows, columns)
    print_lines(f"{row.method}: {row.refused}" for row in rows if row.refused)
    listed = {name: value for row in rows for name, value in row.options.items()}
    hint(f"listed with {', '.join(f'{name}={value}' for name, value in listed.items())}, else as usual")
