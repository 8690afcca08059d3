"""What must hold for a store after anything at all happened to it.

Written with ``sqlite3`` and ``hashlib`` alone, so that it cannot share a mistake with the package.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path


def audit(store: Path, acknowledged: dict[str, str] | None = None) -> list[str]:
    """Returns what is wrong with a store.

    Args:
        store: its folder.
        acknowledged: the digest of every version a caller was told is stored.
    """
    with closing(sqlite3.connect(store / "store.db")) as connection:
        return [
            *_database(connection),
            *_files(store),
            *_versions(connection, store, acknowledged or {}),
            *_numbers(connection),
            *_events(connection),
        ]


def leftovers(store: Path) -> list[Path]:
    """Returns what a killed process may leave: files that no name leads to."""
    return list((store / "tmp").iterdir())


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _database(connection: sqlite3.Connection) -> Iterator[str]:
    result = connection.execute("PRAGMA integrity_check").fetchall()
    if result != [("ok",)]:
        yield f"integrity: {result}"
    for row in connection.execute("PRAGMA foreign_key_check"):
        yield f"foreign key: {row}"


def _files(store: Path) -> Iterator[str]:
    for path in (store / "blobs").rglob("*.safetensors"):
        if digest(path) != path.stem:
            yield f"torn: {path.name}"


def _versions(connection: sqlite3.Connection, store: Path, acknowledged: dict[str, str]) -> Iterator[str]:
    rows = connection.execute(
        "SELECT a.name || '@' || v.n, v.sha256, b.bytes FROM version v "
        "JOIN adapter a ON a.id = v.adapter_id LEFT JOIN blob b ON b.sha256 = v.sha256"
    ).fetchall()
    for ref, sha256, size in rows:
        path = store / "blobs" / sha256[:2] / f"{sha256}.safetensors"
        if not path.exists() or path.stat().st_size != size:
            yield f"dangling: {ref}"
    stored = {ref: sha256 for ref, sha256, _ in rows}
    for ref, sha256 in acknowledged.items():
        if stored.get(ref) != sha256:
            yield f"lost: {ref}"


def _numbers(connection: sqlite3.Connection) -> Iterator[str]:
    _, gone, arrived = _history(connection)
    for name, following in connection.execute("SELECT name, next_n FROM adapter").fetchall():
        rows = connection.execute(
            "SELECT n FROM version JOIN adapter a ON a.id = adapter_id WHERE name = ? ORDER BY n", (name,)
        )
        there = {n for (n,) in rows} | {int(ref.rpartition("@")[2]) for ref in gone[name]}
        # What came from elsewhere keeps its number, whatever is not here yet.
        if there != set(range(1, following)) and not (name in arrived and max(there) < following):
            yield f"numbers: {name} is not dense below {following}"


def _events(connection: sqlite3.Connection) -> Iterator[str]:
    stored = connection.execute("SELECT a.name || '@' || n FROM version JOIN adapter a ON a.id = adapter_id")
    for ref in _history(connection)[0] ^ {ref for (ref,) in stored}:
        yield f"event: {ref}"
    aliases = connection.execute(
        "SELECT a.name || '@' || alias.name, n FROM alias "
        "JOIN adapter a ON a.id = alias.adapter_id JOIN version ON version.id = version_id"
    ).fetchall()
    told = connection.execute(
        "SELECT a.name || '@' || c.name, after FROM alias_change c "
        "JOIN adapter a ON a.id = adapter_id ORDER BY c.id"
    )
    last = dict(told.fetchall())
    if dict(aliases) != {alias: after for alias, after in last.items() if after is not None}:
        yield f"alias: {aliases} is not what the history says"


def _history(connection: sqlite3.Connection) -> tuple[set[str], dict[str, set[str]], set[str]]:
    """Returns what the events tell: the versions there, those removed by name, adapters with arrivals."""
    there: set[str] = set()
    arrived: set[str] = set()
    gone: dict[str, set[str]] = defaultdict(set)
    for action, subject, detail in connection.execute(
        "SELECT action, subject, detail FROM event ORDER BY id"
    ):
        name = subject.rpartition("@")[0]
        if action in ("version.registered", "version.arrived"):
            there.add(subject)
            arrived |= {name} if action == "version.arrived" else set()
        elif action == "version.removed":
            there.remove(subject)
            gone[name].add(subject)
        elif action == "adapter.renamed":
            new = json.loads(detail)["to"]
            there = {
                f"{new}@{ref[len(subject) + 1 :]}" if ref.startswith(f"{subject}@") else ref for ref in there
            }
            gone[new] = gone.pop(subject, set())
            arrived |= {new} if subject in arrived else set()
    return there, gone, arrived
