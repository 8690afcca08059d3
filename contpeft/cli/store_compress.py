"""``contpeft store compress``: versions stored on a basis that they share."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.filesize import decimal

from contpeft.cli.evaluating import Heads, Rows, open_evaluation, parse_heads
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
from contpeft.errors import ContpeftError, UsageError
from contpeft.store import AdapterStore, Compressed, Compression, Stored

if TYPE_CHECKING:
    from contpeft.experiments.compression import Measured
    from contpeft.store.compression.compressing import Candidate

__all__ = ["COMPRESS_EXAMPLES", "compress"]

COMPRESS_EXAMPLES: Final = examples(
    "contpeft store compress billing@1 billing@2 billing@3 refunds --budget 30% --dry-run",
    "contpeft store compress billing@1 billing@2 refunds mail --budget 2MB --max-error 5%",
    "contpeft store compress billing refunds --budget 50% --eval eval.yaml --max-forgetting 0.01",
)

VERSIONS: Final[tuple[Column[Compressed], ...]] = (
    Column("version", lambda v: v.ref),
    Column("error", lambda v: v.error, "{:.2%}".format, right=True),
    Column("rank", lambda v: v.rank, "{:,}".format, right=True),
    Column("before", lambda v: v.before, decimal, right=True),
    Column("after", lambda v: v.after, decimal, right=True),
)


MEASURED: Final[tuple[Column[Measured], ...]] = (
    Column("version", lambda m: m.ref),
    Column("tasks", lambda m: m.tasks, right=True),
    Column("accuracy before", lambda m: m.before, "{:.1%}".format, right=True),
    Column("after", lambda m: m.after, "{:.1%}".format, right=True),
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
    evaluation: Annotated[
        Path | None,
        typer.Option(
            "--eval", metavar="FILE", help="Measure each on the tasks of this file that it answers."
        ),
    ] = None,
    max_forgetting: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="With --eval: store nothing if a version loses more accuracy."),
    ] = None,
    rows: Rows = None,
    heads: Heads = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what it would come to.")] = False,
    as_json: AsJson = False,
) -> None:
    """Store versions on a basis they share, in fewer bytes.

    Each becomes the next version of its adapter, an ordinary LoRA adapter to everything that loads it, and
    needs the basis, which cannot be removed from under it. What is lost is told per version; what that
    costs in accuracy an evaluation tells. The versions that were given stay until they are removed.
    """
    size = parse_share(budget) if "%" in budget else parse_bytes(budget)
    limit = None if max_error is None else parse_share(max_error)
    if max_forgetting is not None and evaluation is None:
        raise UsageError("--max-forgetting needs --eval FILE to measure with")
    with open_store(store) as opened:
        planned = opened.compression.plan(refs, size)
        found = planned.compression
        measured = () if evaluation is None else _measured(opened, evaluation, planned, rows, heads)
        if not as_json:
            _print(found, measured)
        _check(found, measured, limit, max_forgetting)
        stored = None if dry_run else opened.compression.store(planned, basis=basis)
    if as_json:
        told = {} if evaluation is None else {"measured": [asdict(each) for each in measured]}
        print_json((found if stored is None else stored).to_json() | told)
    if stored is not None:
        _hint(stored)


def _check(
    found: Compression, measured: Sequence[Measured], max_error: float | None, max_forgetting: float | None
) -> None:
    """Raises a :class:`ContpeftError` for the version that loses most, if that is more than it may."""
    found.check_errors(max_error)
    worst = max(measured, key=lambda each: each.loss, default=None)
    if worst is not None and max_forgetting is not None and not worst.within(max_forgetting):
        raise ContpeftError(
            f"{worst.ref} would have {worst.after:.1%} instead of {worst.before:.1%} on its tasks, and "
            f"{max_forgetting:.1%} may be lost; nothing is stored: give a larger --budget, or leave it out"
        )


def _measured(
    store: AdapterStore, file: Path, planned: Candidate, rows: int | None, heads: list[str] | None
) -> tuple[Measured, ...]:
    from contpeft.experiments.compression import measure

    return measure(open_evaluation(store, file, rows, parse_heads(heads)), planned)


def _print(found: Compression, measured: Sequence[Measured]) -> None:
    print_table(found.versions, VERSIONS)
    print_lines([""])
    if measured:
        print_table(measured, MEASURED)
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
