"""Aliases: names that move from version to version of one adapter, and every move they made."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING

from contpeft.errors import NotFoundError, SpecError, suggest
from contpeft.spec import AdapterRef, check_name
from contpeft.store import events, versions
from contpeft.store.database import Database
from contpeft.store.rows import insert_row

if TYPE_CHECKING:  # it loads pydantic
    from contpeft.store.transfer.records import AliasRecord

__all__ = ["AliasChange", "Aliases", "arrive"]


@dataclass(frozen=True)
class AliasChange:
    """One move of an alias.

    Attributes:
        name: the adapter's name.
        alias: the alias.
        before: the version number it stood for, or None when there was no such alias.
        after: the version number it stands for since, or None when it was removed.
        at: UTC, ISO 8601.
        actor: who moved it, as the operating system names them.
        undo: whether it takes an earlier move back.
    """

    name: str
    alias: str
    before: int | None
    after: int | None
    at: str
    actor: str
    undo: bool


class Aliases:
    """The aliases of a store, reached as ``store.aliases``.

    Args:
        database: the catalogue.
        store: the store's folder, for messages.
    """

    def __init__(self, database: Database, store: str) -> None:
        """Keeps what it works on."""
        self._db = database
        self._store = store

    def set(self, ref: str | AdapterRef, alias: str) -> AliasChange | None:
        """Lets ``alias`` stand for a version; what it stood for before is in its history.

        Returns:
            The move, or None when it stood there already.

        Raises:
            SpecError: if it may not be an alias: all digits, ``latest``, or another one's name in
                other case.
            NotFoundError: if there is no such version.
        """
        _check_alias(alias)
        with self._db.write() as connection:
            _, exact = versions.find(connection, ref, self._store)
            name, _, number = exact.rpartition("@")
            adapter_id = versions.adapter_id(connection, name, self._store)
            _check_spelling(connection, adapter_id, alias)
            if _number(connection, adapter_id, alias) == int(number):
                return None
            return _move(connection, adapter_id, alias, int(number))

    def remove(self, name: str, alias: str) -> AliasChange:
        """Removes an alias; its history stays.

        Raises:
            NotFoundError: if the adapter has no such alias.
        """
        with self._db.write() as connection:
            adapter_id = versions.adapter_id(connection, name, self._store)
            if _number(connection, adapter_id, alias) is None:
                raise NotFoundError(self._no_alias(connection, name, alias))
            return _move(connection, adapter_id, alias, None)

    def undo(self, name: str, alias: str) -> AliasChange:
        """Takes back the last move of an alias that was not taken back yet.

        Raises:
            NotFoundError: if no move is left to take back, or the version of then was removed.
        """
        with self._db.write() as connection:
            adapter_id = versions.adapter_id(connection, name, self._store)
            last = connection.execute(_LAST, (adapter_id, alias)).fetchone()
            if last is None:
                raise NotFoundError(f"alias '{name}@{alias}' in {self._store} has no move to take back")
            if last["before"] is not None:
                versions.find(connection, AdapterRef(name, last["before"]), self._store)
            return _move(connection, adapter_id, alias, last["before"], undoes=last["id"])

    def log(self, name: str, alias: str | None = None) -> list[AliasChange]:
        """Returns every move of an adapter's aliases, or of one of them, newest first.

        Raises:
            NotFoundError: if there is no such adapter, or it never had that alias.
        """
        with self._db.read() as connection:
            adapter_id = versions.adapter_id(connection, name, self._store)
            found = _changes(connection, adapter_id, alias)
            if alias is not None and not found:
                raise NotFoundError(self._no_alias(connection, name, alias))
            return found

    def of(self, *refs: str) -> dict[str, tuple[str, ...]]:
        """Returns the aliases of versions by ``name@n``; of all that have some when none is named."""
        asked, values = versions.among(refs)
        with self._db.read() as connection:
            rows = connection.execute(
                f"""
                SELECT asked.ref, alias.name
                FROM ({asked}) AS asked JOIN alias ON alias.version_id = asked.id
                ORDER BY asked.name, asked.n, alias.name
                """,
                values,
            ).fetchall()
        found: dict[str, tuple[str, ...]] = {}
        for row in rows:
            found[row["ref"]] = (*found.get(row["ref"], ()), row["name"])
        return found

    def _no_alias(self, connection: sqlite3.Connection, name: str, alias: str) -> str:
        known = versions.aliases(connection, versions.adapter_id(connection, name, self._store))
        return f"adapter {name!r} in {self._store} has no alias {alias!r}{suggest(alias, known)}"


def arrive(connection: sqlite3.Connection, record: AliasRecord, store: str) -> tuple[bool, int | None]:
    """Moves an alias on to where another store has it, if its history here is the beginning of that one.

    Args:
        connection: the catalogue; the version it stands for there is here under the same name.
        record: the alias and its history there.
        store: the store's folder, for messages.

    Returns:
        Whether it moved, and the version number it now stands for here, or None.
    """
    _check_alias(record.alias)
    adapter_id = versions.adapter_id(connection, record.adapter, store)
    here = [(c.at, c.after) for c in reversed(_changes(connection, adapter_id, record.alias))]
    there = [(move.at, move.after) for move in record.history]
    before = _number(connection, adapter_id, record.alias)
    in_other_case = _in_other_case(connection, adapter_id, record.alias)
    if in_other_case or here != there[: len(here)] or len(here) == len(there):
        return False, before
    for old, move in list(zip([None, *record.history], record.history, strict=False))[len(here) :]:
        moved = {"before": old and old.after, "after": move.after, "at": move.at, "actor": move.actor}
        insert_row(connection, "alias_change", adapter_id=adapter_id, name=record.alias, **moved)
    _write(connection, adapter_id, record.alias, record.history[-1].after)
    _record(connection, f"{record.adapter}@{record.alias}", before, record.history[-1].after)
    return True, record.history[-1].after


_LAST = """
    SELECT id, before FROM alias_change AS change
    WHERE adapter_id = ? AND name = ? COLLATE BINARY AND undoes IS NULL
      AND NOT EXISTS (SELECT 1 FROM alias_change WHERE undoes = change.id)
    ORDER BY id DESC LIMIT 1
"""


def _check_alias(alias: str) -> None:
    check_name(alias, "alias")
    if alias.isdecimal() or alias.lower() == "latest":
        raise SpecError(
            f"{alias!r} cannot be an alias: name@{alias} already means a version; choose another word"
        )


def _in_other_case(connection: sqlite3.Connection, adapter_id: int, alias: str) -> str | None:
    known = versions.aliases(connection, adapter_id)
    return next((each for each in known if each.lower() == alias.lower() and each != alias), None)


def _check_spelling(connection: sqlite3.Connection, adapter_id: int, alias: str) -> None:
    same = _in_other_case(connection, adapter_id, alias)
    if same is not None:
        raise SpecError(f"alias {alias!r} differs from {same!r} only in case; use {same!r}")


def _number(connection: sqlite3.Connection, adapter_id: int, alias: str) -> int | None:
    """Returns the version number an alias stands for, or None when there is no such alias."""
    row = connection.execute(
        """
        SELECT version.n FROM alias JOIN version ON version.id = alias.version_id
        WHERE alias.adapter_id = ? AND alias.name = ? COLLATE BINARY
        """,
        (adapter_id, alias),
    ).fetchone()
    return row["n"] if row else None


def _move(
    connection: sqlite3.Connection, adapter_id: int, alias: str, after: int | None, undoes: int | None = None
) -> AliasChange:
    """Moves an alias to a version number, or removes it, and writes both logs."""
    before = _number(connection, adapter_id, alias)
    _write(connection, adapter_id, alias, after)
    moved = {"before": before, "after": after, "undoes": undoes, "actor": events.actor()}
    insert_row(connection, "alias_change", adapter_id=adapter_id, name=alias, **moved)
    change = _changes(connection, adapter_id, alias)[0]
    _record(connection, f"{change.name}@{alias}", before, after)
    return change


def _record(connection: sqlite3.Connection, subject: str, before: int | None, after: int | None) -> None:
    action = "alias.removed" if after is None else "alias.set"
    events.record(connection, action, subject, before=before, after=after)


def _write(connection: sqlite3.Connection, adapter_id: int, alias: str, after: int | None) -> None:
    connection.execute("DELETE FROM alias WHERE adapter_id = ? AND name = ?", (adapter_id, alias))
    if after is not None:
        connection.execute(
            "INSERT INTO alias (adapter_id, name, version_id) "
            "SELECT adapter_id, ?, id FROM version WHERE adapter_id = ? AND n = ?",
            (alias, adapter_id, after),
        )


def _changes(connection: sqlite3.Connection, adapter_id: int, alias: str | None) -> list[AliasChange]:
    rows = connection.execute(
        """
        SELECT adapter.name, change.name AS alias, before, after, at, actor, undoes IS NOT NULL AS undo
        FROM alias_change AS change JOIN adapter ON adapter.id = change.adapter_id
        WHERE adapter_id = ?1 AND (?2 IS NULL OR change.name = ?2 COLLATE BINARY)
        ORDER BY change.id DESC
        """,
        (adapter_id, alias),
    )
    return [AliasChange(**{**dict(row), "undo": bool(row["undo"])}) for row in rows]
