"""Removing versions: rows only, never from under something that needs them."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from contpeft.errors import UsageError
from contpeft.spec import AdapterRef
from contpeft.store import events, runs, tags, versions
from contpeft.store.rows import json_text

__all__ = ["Removed", "needs", "remove", "remove_ids", "remove_run"]

# Everything that keeps a version from going, as (version_id, reason), but for lineage.
_NEEDS = """
    SELECT version_id, 'alias ' || adapter.name || '@' || alias.name || ' stands for it' AS reason
    FROM alias JOIN adapter ON adapter.id = alias.adapter_id
    UNION ALL
    SELECT version_id, 'step ' || step.run || '/' || step.way || '/' || step.step || ' needs it'
    FROM step_version JOIN step ON step.id = step_version.step_id
    WHERE step.run IS NOT :gone
"""
_CHILDREN = """
    SELECT parent.parent_id AS version_id, adapter.name || '@' || version.n || ' was made from it' AS reason
    FROM parent
    JOIN version ON version.id = parent.version_id
    JOIN adapter ON adapter.id = version.adapter_id
    WHERE parent.version_id NOT IN (SELECT value FROM json_each(:ids))
"""


@dataclass(frozen=True)
class Removed:
    """What was removed, or would be.

    Attributes:
        refs: ``name@n`` of each version, oldest first.
        bytes: what their files hold that no other version needs.
    """

    refs: tuple[str, ...]
    bytes: int


def remove(
    connection: sqlite3.Connection, refs: Sequence[str | AdapterRef], store: str, *, dry_run: bool
) -> Removed:
    """Removes versions in the caller's transaction.

    Raises:
        NotFoundError: if there is no such version.
        UsageError: if something that stays needs one.
    """
    found = dict(versions.find(connection, ref, store) for ref in refs)
    _check_unneeded(connection, found, store, None)
    return remove_ids(connection, sorted(found), dry_run=dry_run)


def remove_run(connection: sqlite3.Connection, run: str, store: str, *, dry_run: bool) -> Removed:
    """Removes a run in the caller's transaction: its steps, its scores, and the versions it made.

    Raises:
        NotFoundError: if there is no such run.
        UsageError: if something outside of the run needs one of its versions.
    """
    content = runs.get(connection, run, store).to_json()
    made = versions.select(connection, [("version.run = ?", run)])
    found = dict(versions.find(connection, version.ref, store) for version in made)
    _check_unneeded(connection, found, store, run)
    if not dry_run:
        connection.execute("DELETE FROM step WHERE run = ?", (run,))
    removed = remove_ids(connection, sorted(found), dry_run=dry_run)
    if not dry_run:
        connection.execute("DELETE FROM run WHERE name = ?", (run,))
        events.record(connection, "run.removed", run, **content)
    return removed


def needs(connection: sqlite3.Connection) -> dict[int, str]:
    """Returns, by row id, why a version must stay whatever becomes of its children."""
    return {row["version_id"]: row["reason"] for row in connection.execute(_NEEDS, {"gone": None})}


def _check_unneeded(
    connection: sqlite3.Connection, found: Mapping[int, str], store: str, gone: str | None
) -> None:
    """Raises for the first version that something needs which is neither removed nor in the run ``gone``."""
    row = connection.execute(
        f"SELECT version_id, reason FROM ({_NEEDS} UNION ALL {_CHILDREN}) "
        "WHERE version_id IN (SELECT value FROM json_each(:ids)) ORDER BY version_id LIMIT 1",
        {"ids": json_text(sorted(found), "ids"), "gone": gone},
    ).fetchone()
    if row:
        raise UsageError(f"version {found[row['version_id']]!r} in {store} must stay: {row['reason']}")


def remove_ids(connection: sqlite3.Connection, ids: Sequence[int], *, dry_run: bool) -> Removed:
    """Removes versions nothing needs, by row id, children with their parents."""
    key = {"ids": json_text(sorted(ids), "ids")}
    gone = versions.select(connection, [("version.id IN (SELECT value FROM json_each(?))", key["ids"])])
    removed = Removed(tuple(version.ref for version in reversed(gone)), _freed(connection, key))
    if not dry_run:
        kept = tags.of(connection, tuple(removed.refs))
        for version in gone:
            told = {**version.to_json(), "tags": kept.get(version.ref, {})}
            events.record(connection, "version.removed", version.ref, **told)
        connection.executemany("DELETE FROM version WHERE id = ?", [(i,) for i in sorted(ids, reverse=True)])
    return removed


def _freed(connection: sqlite3.Connection, key: dict[str, str]) -> int:
    row = connection.execute(
        """
        SELECT total(bytes) FROM blob
        WHERE sha256 IN (SELECT sha256 FROM version WHERE id IN (SELECT value FROM json_each(:ids)))
          AND sha256 NOT IN (SELECT sha256 FROM version WHERE id NOT IN (SELECT value FROM json_each(:ids)))
        """,
        key,
    ).fetchone()
    return int(row[0])
