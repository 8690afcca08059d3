"""``contpeft store bundle``, ``unbundle``, ``push``, ``pull`` and ``remote``: versions that travel."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.filesize import decimal

from contpeft.cli.options import (
    DEFAULT_STORE,
    AsJson,
    DryRun,
    StorePath,
    complete,
    open_store,
)
from contpeft.cli.output import Column, examples, hint, print_json, print_lines, print_table
from contpeft.store import AdapterStore, Arrived, Remote, completion

__all__ = [
    "BUNDLE_EXAMPLES",
    "PULL_EXAMPLES",
    "PUSH_EXAMPLES",
    "UNBUNDLE_EXAMPLES",
    "bundle",
    "pull",
    "push",
    "remote_app",
    "unbundle",
]

BUNDLE_EXAMPLES: Final = examples(
    "contpeft store bundle billing.tar billing@champion",
    "contpeft store bundle everything.tar",
)
UNBUNDLE_EXAMPLES: Final = examples(
    "contpeft store unbundle billing.tar --dry-run",
    "contpeft store unbundle billing.tar --store /data/adapters",
)
PUSH_EXAMPLES: Final = examples(
    "contpeft store push team",
    "contpeft store push team billing@3 mail --dry-run",
)
PULL_EXAMPLES: Final = examples("contpeft store pull team --dry-run", "contpeft store pull team --json")

REMOTES: Final[tuple[Column[Remote], ...]] = (
    Column("name", lambda r: r.name),
    Column("url", lambda r: r.url),
)

remote_app = typer.Typer(help="Name the folders that stores share.", no_args_is_help=True)


def _complete_remote(ctx: typer.Context, incomplete: str) -> list[str]:
    return completion.remotes(Path(ctx.params.get("store") or DEFAULT_STORE), incomplete)


Refs = Annotated[
    list[str] | None,
    typer.Argument(metavar="[REF]...", help="Versions; all without them.", autocompletion=complete),
]
RemoteName = Annotated[str, typer.Argument(help="Name of a remote.", autocompletion=_complete_remote)]


def bundle(
    target: Annotated[Path, typer.Argument(metavar="FILE", help="A file that is not there yet.")],
    refs: Refs = None,
    store: StorePath = DEFAULT_STORE,
    as_json: AsJson = False,
) -> None:
    """Write versions into one file, with all they need.

    That is their parents, the runs and steps that made them, scores, aliases and tags.
    """
    with open_store(store) as opened:
        made = opened.transfer.bundle(target, refs or ())
    if as_json:
        print_json({**asdict(made), "path": str(made.path)})
    else:
        print_lines(made.versions)
    hint(f"{made.path}: {len(made.versions)} versions, {decimal(made.bytes)}")
    hint(f"take it in: contpeft store unbundle {made.path} --store DIR")


def unbundle(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="What bundle wrote.")],
    store: StorePath = DEFAULT_STORE,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Take in what a bundle holds and the store does not.

    All of it or nothing; the store is made when there is none.
    """
    opened = AdapterStore(store, create=not dry_run)
    try:
        arrived = opened.transfer.unbundle(source, dry_run=dry_run)
    finally:
        opened.close()
    _print_arrived(arrived, str(source), dry_run=dry_run, as_json=as_json)


def push(
    remote: RemoteName,
    refs: Refs = None,
    store: StorePath = DEFAULT_STORE,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Send a remote what it does not have.

    Cut short, it leaves nothing that others see; the next push goes on.
    """
    with open_store(store) as opened:
        pushed = opened.transfer.push(remote, refs or (), dry_run=dry_run)
    if as_json:
        print_json({**asdict(pushed), "dry_run": dry_run})
    else:
        print_lines(pushed.versions)
    what = f"{pushed.records} records, {pushed.files} files, {decimal(pushed.bytes)}"
    hint(f"{'would send' if dry_run else 'sent'} {remote} {what}")


def pull(
    remote: RemoteName,
    store: StorePath = DEFAULT_STORE,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Take in what a remote has and the store does not.

    Nothing that is here changes. Every file is checked on arrival.
    """
    with open_store(store) as opened:
        arrived = opened.transfer.pull(remote, dry_run=dry_run)
    _print_arrived(arrived, remote, dry_run=dry_run, as_json=as_json)


@remote_app.command(
    "add",
    epilog=examples(
        "contpeft store remote add team /mnt/team/adapters",
        "contpeft store remote add team s3://bucket/adapters",
        "contpeft store remote add team sftp://ada@host/srv/adapters",
    ),
)
def add_remote(
    name: Annotated[str, typer.Argument(help="What push and pull call it.")],
    url: Annotated[str, typer.Argument(help="A path, or an address fsspec knows.")],
    store: StorePath = DEFAULT_STORE,
) -> None:
    """Name a shared folder: a path, s3://, sftp://, or any other fsspec knows."""
    with open_store(store) as opened:
        remote = opened.transfer.add_remote(name, url)
    hint(f"{remote.name} is {remote.url}; undo: contpeft store remote rm {remote.name}")


@remote_app.command(
    "list", epilog=examples("contpeft store remote list", "contpeft store remote list --json")
)
def list_remotes(store: StorePath = DEFAULT_STORE, as_json: AsJson = False) -> None:
    """List the remotes."""
    with open_store(store) as opened:
        remotes = opened.transfer.remotes()
    if as_json:
        print_json([asdict(each) for each in remotes])
    else:
        print_table(remotes, REMOTES)


@remote_app.command(
    "rm",
    epilog=examples("contpeft store remote rm team", "contpeft store remote rm team --store /data/adapters"),
)
def remove_remote(name: RemoteName, store: StorePath = DEFAULT_STORE) -> None:
    """Forget the name of a shared folder; the folder stays as it is."""
    with open_store(store) as opened:
        gone = opened.transfer.remove_remote(name)
    hint(f"{gone.name} is gone; undo: contpeft store remote add {gone.name} {gone.url}")


def _print_arrived(arrived: Arrived, source: str, *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        print_json({**asdict(arrived), "dry_run": dry_run})
    else:
        print_lines(arrived.versions)
    for here, there in arrived.renamed.items():
        hint(f"{there} of {source} is {here} here: that name and number mean another version")
    for conflict in arrived.conflicts:
        hint(f"conflict: {conflict.subject} is {conflict.here} here and {conflict.there} in {source}; kept")
    for ref in arrived.healed:
        hint(f"{ref} has its file again")
    counts = f"{len(arrived.versions)} versions, {arrived.scores} scores, {len(arrived.aliases)} aliases"
    hint(f"{'would take' if dry_run else 'took'} {counts} from {source}")
