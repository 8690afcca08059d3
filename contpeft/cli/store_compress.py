"""``contpeft store compress``: versions stored on a basis that they share."""

from __future__ import annotations

import shlex
from typing import Annotated, Any, Final

import typer
from rich.filesize import decimal

from contpeft.cli.options import (
    DEFAULT_STORE,
    AsJson,
    StorePath,
    complete,
    open_store,
    parse_bytes,
    parse_share,
)
from contpeft.cli.output import Column, examples, hint, print_details, print_json, print_lines, print_table
from contpeft.errors import UsageError
from contpeft.store import Compressed, Compression, Stored

__all__ = ["COMPRESS_EXAMPLES", "compress"]

COMPRESS_EXAMPLES: Final = examples(
    "contpeft store compress billing@1 billing@2 billing@3 refunds --budget 30% --dry-run",
    "contpeft store compress billing@1 billing@2 refunds mail --budget 2MB --max-error 5%",
)

VERSIONS: Final[tuple[Column[Compressed], ...]] = (
    Column("version", lambda v: v.ref),
    Column("error", lambda v: v.error, "{:.2%}".format, right=True),
    Column("rank", lambda v: v.rank, "{:,}".format, right=True),
    Column("before", lambda v: v.before, decimal, right=True),
    Column("after", lambda v: v.after, decimal, right=True),
)


def compress(
    refs: Annotated[
        list[str],
        typer.Argument(metavar="REF...", help="LoRA versions of one base.", autocompletion=complete),
    ],
    budget: Annotated[
        str, typer.Option(metavar="SIZE", help="What all may take together: 2MB, or 30% of what they take.")
    ],
    store: StorePath = DEFAULT_STORE,
    basis: Annotated[
        str, typer.Option(metavar="NAME", help="The adapter of which the basis becomes a version.")
    ] = "shared-basis",
    max_error: Annotated[
        str | None,
        typer.Option(metavar="SHARE", help="Store nothing if a version loses more of its norm, as 5%."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what it would come to.")] = False,
    as_json: AsJson = False,
) -> None:
    """Store versions anew on a basis they share, each with few numbers of its own.

    Each becomes the next version of its adapter, an ordinary LoRA adapter to everything that loads it, and
    needs the basis, which cannot be removed from under it. What is lost is told per version; what that
    costs in accuracy an evaluation tells. The versions that were given stay until they are removed.
    """
    size = parse_share(budget) if "%" in budget else parse_bytes(budget)
    limit = None if max_error is None else parse_share(max_error)
    if limit is not None and dry_run:
        raise UsageError("--dry-run stores nothing and tells every error; leave --max-error out")
    with open_store(store) as opened:
        if dry_run:
            plan = opened.compression.plan(refs, size)
            _print(plan, plan.to_json(), as_json=as_json)
            return
        stored = opened.compression.compress(refs, size, basis=basis, max_error=limit)
    _print(stored.compression, stored.to_json(), as_json=as_json)
    _hint(stored)


def _print(found: Compression, value: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(value)
        return
    print_table(found.versions, VERSIONS)
    print_lines([""])
    directions = sum(p + q for p, q in found.modules.values())
    print_details(
        {
            "before": decimal(found.before),
            "after": f"{decimal(found.after)} ({found.after / found.before:.1%}), of which the basis "
            f"{decimal(found.basis)}",
            "modules": f"{len(found.modules):,}, with {directions:,} directions together",
            "lost": f"{', '.join(found.lost)}: no room for them" if found.lost else None,
        },
        indent=0,
    )


def _hint(stored: Stored) -> None:
    given = shlex.join(version.ref for version in stored.compression.versions)
    made = " ".join(stored.refs)
    hint(f"stored {made} on {stored.basis}; undo: contpeft store rm {made} {stored.basis}")
    hint(f"to free the bytes, once they have proved themselves: contpeft store rm {given}; contpeft store gc")
