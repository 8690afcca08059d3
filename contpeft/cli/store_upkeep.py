"""``contpeft store rm``, ``prune``, ``gc``, ``fsck`` and ``backup``: a store kept small and sound."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.filesize import decimal

from contpeft.cli.options import (
    DEFAULT_STORE,
    AsJson,
    DryRun,
    StorePath,
    Yes,
    complete,
    confirm,
    open_store,
    parse_bytes,
    parse_duration,
    parse_share,
)
from contpeft.cli.output import Column, examples, hint, print_details, print_json, print_lines, print_table
from contpeft.errors import IntegrityError, UsageError
from contpeft.store import Finding, Metric, Policy, Removed

__all__ = [
    "BACKUP_EXAMPLES",
    "FSCK_EXAMPLES",
    "GC_EXAMPLES",
    "PRUNE_EXAMPLES",
    "RM_EXAMPLES",
    "backup",
    "fsck",
    "gc",
    "prune",
    "rm",
]

RM_EXAMPLES: Final = examples(
    "contpeft store rm billing@3",
    "contpeft store rm billing@3 billing@4 --dry-run",
    "contpeft store rm --run quickstart --yes",
)
PRUNE_EXAMPLES: Final = examples(
    "contpeft store prune --keep-last 3 --dry-run",
    "contpeft store prune --name billing --keep-best accuracy --n 2 --keep-within 30d",
    "contpeft store prune --max-bytes 500MB --yes",
)
GC_EXAMPLES: Final = examples("contpeft store gc --dry-run", "contpeft store gc --grace 0 --yes")
FSCK_EXAMPLES: Final = examples(
    "contpeft store fsck",
    "contpeft store fsck --sample 5% --max-seconds 60",
    "contpeft store fsck --repair --json",
)
BACKUP_EXAMPLES: Final = examples(
    "contpeft store backup backups/monday",
    "contpeft store backup /mnt/backups/adapters --json",
)

FINDINGS: Final[tuple[Column[Finding], ...]] = (
    Column("kind", lambda f: f.kind),
    Column("subject", lambda f: f.subject),
    Column("detail", lambda f: f.detail),
    Column("quarantine", lambda f: f.quarantine),
)


def rm(
    refs: Annotated[
        list[str] | None, typer.Argument(metavar="[REF]...", help="Versions.", autocompletion=complete)
    ] = None,
    store: StorePath = DEFAULT_STORE,
    run: Annotated[str | None, typer.Option(help="A run, with its scores and the versions it made.")] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Remove versions or a run that nothing needs; gc frees the files."""
    if bool(refs) == bool(run):
        raise UsageError("name the versions to remove, or a run by --run")
    with open_store(store) as opened:
        upkeep = opened.upkeep
        removed = upkeep.remove_run(run, dry_run=True) if run else upkeep.remove(refs or (), dry_run=True)
        if not dry_run:
            _ask_to_remove(removed, yes=yes)
            removed = upkeep.remove_run(run) if run else upkeep.remove(removed.refs)
    _print_removed(removed, {}, dry_run=dry_run, as_json=as_json)


def prune(
    store: StorePath = DEFAULT_STORE,
    name: Annotated[str | None, typer.Option(help="Only versions of this adapter go.")] = None,
    keep_last: Annotated[int | None, typer.Option(min=0, help="Keep the newest so many of each.")] = None,
    keep_best: Annotated[
        str | None,
        typer.Option(metavar="METRIC", help="Keep the best of each by accuracy or accuracy@task."),
    ] = None,
    n: Annotated[int, typer.Option("--n", min=1, help="How many --keep-best keeps.")] = 1,
    keep_within: Annotated[str | None, typer.Option(metavar="TIME", help="Keep the last 30d.")] = None,
    max_bytes: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Keep the newest others that fit in 500MB.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--everything", help="An adapter may lose all its versions.")
    ] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Remove the versions that no rule keeps.

    Whatever the rules, a version stays that an alias stands for, that is tagged keep, that a finished
    step needs, or that a version which stays was made from. gc frees the files.
    """
    policy = Policy(
        last=keep_last,
        best=n if keep_best else None,
        metric=Metric.parse(keep_best or "accuracy"),
        within=parse_duration(keep_within) if keep_within else None,
        max_bytes=parse_bytes(max_bytes) if max_bytes else None,
    )
    with open_store(store) as opened:
        pruned = opened.upkeep.prune(policy, name, everything=everything, dry_run=True)
        removed = pruned.removed
        if removed.refs and not dry_run:
            _ask_to_remove(removed, yes=yes)
            removed = opened.upkeep.remove(removed.refs)
    _print_removed(removed, {"kept": dict(pruned.kept)}, dry_run=dry_run, as_json=as_json)


def gc(
    store: StorePath = DEFAULT_STORE,
    grace: Annotated[str, typer.Option(metavar="TIME", help="What is younger than this stays.")] = "1d",
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Delete files that no version needs.

    Those of removed versions, and what killed processes left. Safe while others write.
    """
    young = parse_duration(grace)
    with open_store(store) as opened:
        collected = opened.upkeep.gc(young, dry_run=True)
        count = len(collected.blobs) + len(collected.temporary)
        if count and not dry_run:
            confirm(f"Delete {count} files, {decimal(collected.bytes)}, for good?", yes=yes)
            collected = opened.upkeep.gc(young)
    if as_json:
        print_json({**asdict(collected), "dry_run": dry_run})
    else:
        print_lines([*collected.blobs, *collected.temporary])
    count = len(collected.blobs) + len(collected.temporary)
    hint(f"{'would delete' if dry_run else 'deleted'} {count} files, {decimal(collected.bytes)}")


def fsck(
    store: StorePath = DEFAULT_STORE,
    quick: Annotated[bool, typer.Option("--quick", help="Read no file.")] = False,
    sample: Annotated[str | None, typer.Option(metavar="SHARE", help="Read only 5% of the files.")] = None,
    max_seconds: Annotated[float | None, typer.Option(min=0, help="Read no file after that time.")] = None,
    repair: Annotated[bool, typer.Option("--repair", help="Move damaged files to quarantine.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check that all stored data is there and sound.

    The exit code is 4 where it is not.
    """
    share = parse_share(sample) if sample else None
    with open_store(store) as opened:
        checked = opened.upkeep.fsck(quick=quick, sample=share, max_seconds=max_seconds, repair=repair)
    if as_json:
        print_json(asdict(checked))
    else:
        if checked.findings:
            print_table(checked.findings, FINDINGS)
            print_lines([""])
        told = {key: value for key, value in asdict(checked).items() if key not in ("findings", "seconds")}
        print_details({**told, "seconds": f"{checked.seconds:.1f}"}, indent=0)
    _refuse_damage(checked.findings, str(store))


def backup(
    target: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that is not there yet.")],
    store: StorePath = DEFAULT_STORE,
    as_json: AsJson = False,
) -> None:
    """Copy the store while others go on using it.

    The copy is a store: opening it is all that restoring takes.
    """
    with open_store(store) as opened:
        made = opened.upkeep.backup(target)
    if as_json:
        print_json({**asdict(made), "path": str(made.path)})
    else:
        print_lines([str(made.path)])
    hint(f"{made.versions} versions, {made.files} files, {decimal(made.bytes)}, {made.linked} hard links")
    hint(f"restore: contpeft store list --store {made.path}")
    _refuse_damage(made.findings, str(made.path))


def _ask_to_remove(removed: Removed, *, yes: bool) -> None:
    if not yes:
        hint("\n".join(removed.refs))
    confirm(f"Remove {len(removed.refs)} versions, {decimal(removed.bytes)}?", yes=yes)


def _print_removed(removed: Removed, more: dict[str, Any], *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        print_json({**asdict(removed), **more, "dry_run": dry_run})
    else:
        print_lines(removed.refs)
    what = f"{len(removed.refs)} versions, {decimal(removed.bytes)}"
    if dry_run:
        hint(f"would remove {what}")
    else:
        hint(f"removed {what}; undo: register them again; contpeft store gc frees the bytes")


def _refuse_damage(findings: tuple[Finding, ...], store: str) -> None:
    if findings:
        subjects = ", ".join(sorted({finding.subject for finding in findings})[:3])
        raise IntegrityError(
            f"{len(findings)} problems in {store} ({subjects}{', ...' if len(findings) > 3 else ''}); "
            "register the same content again or restore a backup"
        )
