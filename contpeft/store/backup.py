"""Backing up: a whole copy of one moment, while others go on writing."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from contpeft.errors import UsageError
from contpeft.store import events, fsck
from contpeft.store.blobs import Blobs
from contpeft.store.database import Database, sqlite_errors
from contpeft.store.disk import whole_folder
from contpeft.store.fsck import Finding

__all__ = ["Backup", "copy"]


@dataclass(frozen=True)
class Backup:
    """A copy of a store.

    Attributes:
        path: where it is: a store like any other.
        versions: how many it has.
        files: how many files they need.
        bytes: size of these files.
        linked: how many of them are hard links to the originals and take no space.
        findings: what a full check of the copy found; the original has the same damage.
    """

    path: Path
    versions: int
    files: int
    bytes: int
    linked: int
    findings: tuple[Finding, ...]


def copy(database: Database, blobs: Blobs, target: Path) -> Backup:
    """Copies a store into a folder that is made for it, whole or not at all.

    Raises:
        UsageError: if there is something at ``target``.
        StoreBusyError: if the copy cannot be written.
    """
    if target.exists():
        raise UsageError(f"{target} exists; name a folder that does not, and the backup is made there")
    with whole_folder(target) as partial:
        copied = Blobs(partial)
        copied.make_folders()
        return _copy(database, blobs, copied, target, partial)


def _copy(database: Database, blobs: Blobs, copied: Blobs, target: Path, partial: Path) -> Backup:
    # Most files come before the lock, so that writers wait for those alone that were new meanwhile.
    with database.read() as connection:
        early = _needed(connection)
    linked = _bring(early, blobs, copied)
    # With the lock in hand no file is collected between the catalogue and the files it names.
    with database.write() as connection:
        _copy_catalogue(database.path, partial / "store.db")
        needed = _needed(connection)
        linked += _bring(needed, blobs, copied)
        events.record(connection, "store.backed_up", "store", path=str(target), files=len(needed))
    removed = early.keys() - needed.keys()
    copied.delete(copied.path(sha256) for sha256 in removed)
    copy = Database(partial / "store.db", prepare=copied.make_folders)
    checked = fsck.check(copy, copied, quick=False, sample=None, max_seconds=None, repair=False)
    copy.close()
    links = len(set(linked) - removed)
    return Backup(target, checked.versions, len(needed), sum(needed.values()), links, checked.findings)


def _needed(connection: sqlite3.Connection) -> dict[str, int]:
    """Returns the size of every file a version needs, by its digest."""
    rows = connection.execute("SELECT sha256, bytes FROM blob WHERE sha256 IN (SELECT sha256 FROM version)")
    return {row["sha256"]: row["bytes"] for row in rows}


def _bring(needed: Iterable[str], blobs: Blobs, copied: Blobs) -> list[str]:
    """Links or copies the files that did not come yet; returns those that are links."""
    missing = [sha256 for sha256 in needed if copied.stat(copied.path(sha256)) is None]
    return [sha256 for sha256 in missing if blobs.link(sha256, copied)]


def _copy_catalogue(source: Path, target: Path) -> None:
    # Its own connection: a transaction that holds the lock cannot run VACUUM itself.
    with sqlite_errors(target), closing(sqlite3.connect(source)) as connection:
        connection.execute("VACUUM INTO ?", (str(target),))
