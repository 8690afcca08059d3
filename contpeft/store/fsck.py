"""Checking a store: the catalogue against itself, the files against the catalogue."""

from __future__ import annotations

import math
import random
import sqlite3
import time
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from contpeft.digest import tensors_digest
from contpeft.errors import IntegrityError
from contpeft.store import events
from contpeft.store.blobs import Blobs
from contpeft.store.database import Database
from contpeft.store.tensors import BASIS, count_parameters, entries

__all__ = ["Checked", "Finding", "check"]

Kind = Literal["catalogue", "missing", "size", "corrupt", "config", "basis"]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        kind: ``"catalogue"`` (the database itself), ``"missing"`` (no file), ``"size"`` (a file of
            another size), ``"corrupt"`` (other bytes), ``"config"`` (a row that does not fit its
            tensors), ``"basis"`` (no version holds the basis that a version is told in).
        subject: ``name@n``, or the table.
        detail: what was found.
        quarantine: where the file went, or None when it stayed.
    """

    kind: Kind
    subject: str
    detail: str
    quarantine: str | None = None


@dataclass(frozen=True)
class Checked:
    """The answer of a check.

    Attributes:
        findings: all that is wrong.
        versions: how many versions there are.
        files: how many files they have.
        read: how many of these were read in full.
        orphans: how many files no version needs; garbage collection takes them.
        seconds: how long it took.
    """

    findings: tuple[Finding, ...]
    versions: int
    files: int
    read: int
    orphans: int
    seconds: float


_FILES: Final = """
    SELECT blob.sha256, blob.bytes, version.fingerprint, version.parameters,
           group_concat(adapter.name || '@' || version.n, ' ') AS refs
    FROM version
    JOIN blob ON blob.sha256 = version.sha256
    JOIN adapter ON adapter.id = version.adapter_id
    GROUP BY blob.sha256, version.fingerprint, version.parameters
"""
_NUMBERS: Final = """
    SELECT adapter.name || '@' || max(version.n) AS ref, adapter.next_n
    FROM adapter JOIN version ON version.adapter_id = adapter.id
    GROUP BY adapter.id HAVING max(version.n) >= adapter.next_n
"""
_TEXTS: Final = """
    SELECT adapter.name || '@' || version.n AS ref
    FROM version JOIN adapter ON adapter.id = version.adapter_id
    WHERE NOT (json_valid(config) AND json_valid(environment)
               AND json_valid(coalesce(head, '{}')) AND json_valid(coalesce(recipe, '{}')))
"""


def check(
    database: Database,
    blobs: Blobs,
    *,
    quick: bool,
    sample: float | None,
    max_seconds: float | None,
    repair: bool,
) -> Checked:
    """Checks a store; with ``repair``, files that are not what was stored go to quarantine."""
    start = time.monotonic()
    with database.read() as connection:
        findings = list(_catalogue(connection, "quick_check" if quick else "integrity_check"))
        files = connection.execute(_FILES).fetchall()
        versions = connection.execute("SELECT count(*) FROM version").fetchone()[0]
        digests = {file["sha256"] for file in files}
        orphans = sum(sha256 not in digests for sha256 in blobs.digests())
    in_full = set() if quick else _chosen(sorted(digests), sample)
    read = 0
    for file in random.sample(files, len(files)):
        late = max_seconds is not None and time.monotonic() - start > max_seconds
        whole = file["sha256"] in in_full and not late
        read += whole
        found = _file(blobs, file, digests, whole=whole)
        if found is not None and _needed(database, file["sha256"]):
            findings.append(_quarantine(database, blobs, file, found) if repair else found)
    ordered = tuple(sorted(findings, key=lambda finding: (finding.kind, finding.subject)))
    return Checked(ordered, versions, len(digests), read, orphans, time.monotonic() - start)


def _catalogue(connection: sqlite3.Connection, pragma: str) -> Iterator[Finding]:
    for row in connection.execute(f"PRAGMA {pragma}"):
        if row[0] != "ok":
            yield Finding("catalogue", "store.db", row[0])
    for row in connection.execute("PRAGMA foreign_key_check"):
        yield Finding("catalogue", f"{row[0]} {row[1]}", f"names a row of {row[2]} that is not there")
    for row in connection.execute(_NUMBERS):
        detail = f"the next number would be {row['next_n']}, which was given already"
        yield Finding("catalogue", row["ref"], detail)
    for row in connection.execute(_TEXTS):
        yield Finding("catalogue", row["ref"], "its config, head, recipe or environment is no JSON")


def _chosen(digests: Sequence[str], sample: float | None) -> set[str]:
    """Returns which files to read: all of them, or a share drawn anew each time."""
    return set(random.sample(digests, math.ceil(len(digests) * (1.0 if sample is None else sample))))


def _file(blobs: Blobs, file: sqlite3.Row, digests: Container[str], *, whole: bool) -> Finding | None:
    """Returns what is wrong with a file, or None."""
    path = blobs.path(file["sha256"])
    stat = blobs.stat(path)
    if stat is None:
        return Finding("missing", file["refs"], f"there is no {path}")
    if stat.st_size != file["bytes"]:
        detail = f"{path} has {stat.st_size} bytes, not {file['bytes']}"
        return Finding("size", file["refs"], detail)
    if not whole:
        return None
    try:
        data = blobs.read(file["sha256"], file["refs"])
    except IntegrityError:
        return Finding("corrupt", file["refs"], f"{path} has other bytes than were stored")
    return _tensors(file, data) or _basis(file, data, digests)


def _basis(file: sqlite3.Row, data: bytes, digests: Container[str]) -> Finding | None:
    """Returns that no version holds the basis which a file's tensors are coordinates in, or None."""
    named = [bytes(body).hex() for name, _, _, body in entries(data) if name == BASIS]
    if not named or named[0] in digests:
        return None
    return Finding("basis", file["refs"], f"no version holds the basis {named[0][:12]} that it is told in")


def _tensors(file: sqlite3.Row, data: bytes) -> Finding | None:
    """Returns what the rows of a version say wrongly about the tensors of its file, or None."""
    held = list(entries(data))
    if tensors_digest(held) == file["fingerprint"] and count_parameters(held) == file["parameters"]:
        return None
    return Finding("config", file["refs"], "its fingerprint or parameters are not those of its tensors")


def _needed(database: Database, sha256: str) -> bool:
    """Returns whether a version needs the file now: it may have been removed while others were read."""
    with database.read() as connection:
        row = connection.execute("SELECT 1 FROM version WHERE sha256 = ?", (sha256,)).fetchone()
    return row is not None


def _quarantine(database: Database, blobs: Blobs, file: sqlite3.Row, finding: Finding) -> Finding:
    """Takes a file that is not what was stored out of use, unless it was healed meanwhile."""
    if finding.kind not in ("size", "corrupt"):
        return finding
    with database.write() as connection:
        if blobs.intact(file["sha256"], file["bytes"]):
            return finding
        place = blobs.quarantine(file["sha256"])
        if place is not None:
            events.record(connection, "blob.quarantined", file["sha256"], quarantine=place.name)
            return replace(finding, quarantine=place.name)
    return finding
