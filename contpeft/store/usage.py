"""What a store holds in bytes: of each adapter alone, shared, and needed by nobody."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Final

from contpeft.store.blobs import Blobs

__all__ = ["LineUsage", "Usage", "measure"]


@dataclass(frozen=True)
class LineUsage:
    """What the versions of one adapter hold; a file several of them share counts once.

    Attributes:
        name: the adapter's name.
        versions: how many it has.
        bytes: size of their files.
        shared: how much of that other adapters need too.
    """

    name: str
    versions: int
    bytes: int
    shared: int


@dataclass(frozen=True)
class Usage:
    """What a store holds.

    Attributes:
        lines: the adapters, largest first.
        bytes: size of all files that versions need, each counted once.
        orphans: size of the files no version needs; garbage collection frees them.
        quarantine: size of the damaged files set aside.
        catalogue: size of the catalogue.
    """

    lines: tuple[LineUsage, ...]
    bytes: int
    orphans: int
    quarantine: int
    catalogue: int


_LINES: Final = """
    WITH used AS (
        SELECT DISTINCT version.adapter_id, blob.sha256, blob.bytes,
               (SELECT count(DISTINCT other.adapter_id) FROM version AS other
                WHERE other.sha256 = blob.sha256) > 1 AS shared
        FROM version JOIN blob ON blob.sha256 = version.sha256
    )
    SELECT adapter.name,
           (SELECT count(*) FROM version WHERE version.adapter_id = adapter.id) AS versions,
           CAST(total(used.bytes) AS INTEGER) AS bytes,
           CAST(total(used.bytes * used.shared) AS INTEGER) AS shared
    FROM adapter JOIN used ON used.adapter_id = adapter.id
    GROUP BY adapter.id ORDER BY bytes DESC, adapter.name
"""
_NEEDED: Final = "SELECT sha256, bytes FROM blob WHERE sha256 IN (SELECT sha256 FROM version)"


def measure(connection: sqlite3.Connection, blobs: Blobs) -> Usage:
    """Returns what a store holds now."""
    needed = {row["sha256"]: row["bytes"] for row in connection.execute(_NEEDED)}
    orphans = [blobs.path(sha256) for sha256 in blobs.digests() if sha256 not in needed]
    pages = connection.execute("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size")
    return Usage(
        lines=tuple(LineUsage(*row) for row in connection.execute(_LINES)),
        bytes=sum(needed.values()),
        orphans=blobs.size(orphans),
        quarantine=blobs.size(blobs.quarantined()),
        catalogue=pages.fetchone()[0],
    )
