"""Collecting garbage: files are deleted under the write lock, so no writer can come to need one.

A writer makes its file durable first and checks, with the lock in hand, that the file is still there
before it names it. Whoever deletes holds the same lock and asks the catalogue first. So either the
writer's row is seen here, or the missing file is seen there and written again, lock in hand.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from contpeft.store import events
from contpeft.store.blobs import Blobs
from contpeft.store.database import Database

__all__ = ["Collected", "collect"]

# Writers wait while a batch is deleted.
_BATCH: Final = 100


@dataclass(frozen=True)
class Collected:
    """What was deleted, or would be.

    Attributes:
        blobs: digests of the files no version needs.
        temporary: names of the files that killed processes left unfinished.
        bytes: size of all of them.
    """

    blobs: tuple[str, ...]
    temporary: tuple[str, ...]
    bytes: int


def collect(database: Database, blobs: Blobs, grace: timedelta, *, dry_run: bool) -> Collected:
    """Deletes what is older than ``grace`` and no version needs."""
    until = time.time() - grace.total_seconds()
    with database.read() as connection:
        candidates = sorted(_candidates(connection, blobs))
    found: dict[str, int] = {}
    for start in range(0, len(candidates), _BATCH):
        batch = candidates[start : start + _BATCH]
        with database.read() if dry_run else database.write() as connection:
            unneeded = _unneeded(connection, blobs, batch, until)
            if unneeded and not dry_run:
                _delete(connection, blobs, unneeded)
        found |= unneeded
    temporary = _collect_temporary(database, blobs, until, dry_run=dry_run)
    return Collected(tuple(found), tuple(sorted(temporary)), sum(found.values()) + sum(temporary.values()))


def _collect_temporary(database: Database, blobs: Blobs, until: float, *, dry_run: bool) -> dict[str, int]:
    with database.read() if dry_run else database.write():
        paths = {path.name: path for path in blobs.temporary()}
        old = _older(paths, blobs, until)
        if not dry_run:
            blobs.delete(paths[name] for name in old)
    return old


def _candidates(connection: sqlite3.Connection, blobs: Blobs) -> set[str]:
    """Returns the digests of the rows and files that no version names now."""
    named = {row["sha256"] for row in connection.execute("SELECT DISTINCT sha256 FROM version")}
    rows = {row["sha256"] for row in connection.execute("SELECT sha256 FROM blob")}
    return (rows | set(blobs.digests())) - named


def _unneeded(
    connection: sqlite3.Connection, blobs: Blobs, digests: Iterable[str], until: float
) -> dict[str, int]:
    """Returns digest and size of those that no version names and that are old enough."""
    query = "SELECT 1 FROM version WHERE sha256 = ?"
    free = [sha256 for sha256 in digests if connection.execute(query, (sha256,)).fetchone() is None]
    return _older({sha256: blobs.path(sha256) for sha256 in free}, blobs, until)


def _older(paths: dict[str, Path], blobs: Blobs, until: float) -> dict[str, int]:
    """Returns the sizes of the files last written before ``until``; a file that is gone has none."""
    found = {name: blobs.stat(path) for name, path in paths.items()}
    return {
        name: file.st_size if file else 0
        for name, file in found.items()
        if not file or file.st_mtime <= until
    }


def _delete(connection: sqlite3.Connection, blobs: Blobs, unneeded: dict[str, int]) -> None:
    connection.executemany("DELETE FROM blob WHERE sha256 = ?", [(sha256,) for sha256 in unneeded])
    events.record(connection, "blobs.collected", "store", blobs=list(unneeded), bytes=sum(unneeded.values()))
    # A crash from here on leaves rows without files that no version names: registering repairs them.
    blobs.delete(blobs.path(sha256) for sha256 in unneeded)
