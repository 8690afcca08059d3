"""Tags: words and values people put on versions, and take off again."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from contpeft.errors import NotFoundError, SpecError, suggest
from contpeft.spec import AdapterRef, check_name
from contpeft.store import events, versions
from contpeft.store.database import Database

__all__ = ["KEEP", "Tags", "of", "put"]

KEEP: Final = "keep"


class Tags:
    """The tags of a store, reached as ``store.tags``.

    The tag ``keep`` has a meaning: pruning never takes a version that has it.

    Args:
        database: the catalogue.
        store: the store's folder, for messages.
    """

    def __init__(self, database: Database, store: str) -> None:
        """Keeps what it works on."""
        self._db = database
        self._store = store

    def set(self, ref: str | AdapterRef, tags: Mapping[str, str]) -> dict[str, str]:
        """Puts tags on a version, in the place of those with the same key.

        Returns:
            All its tags.

        Raises:
            SpecError: if a key is no name, or a value no text.
            NotFoundError: if there is no such version.
        """
        for key, value in tags.items():
            check_name(key, "tag")
            if not isinstance(value, str):
                raise SpecError(f"value of tag {key!r} is {value!r}; give text")
        with self._db.write() as connection:
            return put(connection, ref, tags, self._store)

    def remove(self, ref: str | AdapterRef, keys: Iterable[str]) -> dict[str, str]:
        """Takes tags off a version and returns those that stay.

        Raises:
            NotFoundError: if there is no such version, or it has no such tag.
        """
        with self._db.write() as connection:
            version_id, exact = versions.find(connection, ref, self._store)
            before = _tags(connection, version_id)
            gone = set(keys)
            for key in gone - before.keys():
                raise NotFoundError(f"version {exact!r} has no tag {key!r}{suggest(key, before)}")
            after = {key: value for key, value in before.items() if key not in gone}
            connection.executemany(
                "DELETE FROM tag WHERE version_id = ? AND key = ?", [(version_id, key) for key in gone]
            )
            _record(connection, exact, before, after)
            return after

    def of(self, *refs: str) -> dict[str, dict[str, str]]:
        """Returns the tags of versions by ``name@n``; of all that have some when none is named."""
        with self._db.read() as connection:
            return of(connection, refs)


def put(
    connection: sqlite3.Connection, ref: str | AdapterRef, tags: Mapping[str, str], store: str
) -> dict[str, str]:
    """Puts checked tags on a version and returns all it has."""
    version_id, exact = versions.find(connection, ref, store)
    before = _tags(connection, version_id)
    changed = {key: value for key, value in tags.items() if before.get(key) != value}
    connection.executemany(
        "INSERT INTO tag (version_id, key, value) VALUES (?, ?, ?) "
        "ON CONFLICT (version_id, key) DO UPDATE SET value = excluded.value",
        [(version_id, key, value) for key, value in changed.items()],
    )
    _record(connection, exact, before, {**before, **changed})
    return _tags(connection, version_id)


def of(connection: sqlite3.Connection, refs: Sequence[str]) -> dict[str, dict[str, str]]:
    """Returns the tags of versions by ``name@n``; of all that have some when none is named."""
    asked, values = versions.among(refs)
    rows = connection.execute(
        f"""
        SELECT asked.ref, tag.key, tag.value
        FROM ({asked}) AS asked JOIN tag ON tag.version_id = asked.id
        ORDER BY asked.name, asked.n, tag.key
        """,
        values,
    )
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        found.setdefault(row["ref"], {})[row["key"]] = row["value"]
    return found


def _tags(connection: sqlite3.Connection, version_id: int) -> dict[str, str]:
    rows = connection.execute("SELECT key, value FROM tag WHERE version_id = ? ORDER BY key", (version_id,))
    return {row["key"]: row["value"] for row in rows}


def _record(
    connection: sqlite3.Connection, ref: str, before: Mapping[str, str], after: Mapping[str, str]
) -> None:
    if before != after:
        events.record(connection, "version.tagged", ref, before=dict(before), after=dict(after))
