"""One version's rows: the only place that writes them."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from contpeft.spec import BaseModel, Parent
from contpeft.store import versions
from contpeft.store.rows import insert_row, json_text

__all__ = ["insert", "place"]


def place(connection: sqlite3.Connection, name: str, n: int | None = None) -> tuple[int, int]:
    """Takes a version number of an adapter, which is made when there is none.

    Args:
        connection: the catalogue.
        name: the adapter.
        n: the number; the next one when None.

    Returns:
        The adapter's row id and the number.
    """
    connection.execute("INSERT INTO adapter (name) VALUES (?) ON CONFLICT DO NOTHING", (name,))
    row = connection.execute(
        "UPDATE adapter SET next_n = max(next_n, ifnull(?1, next_n) + 1) WHERE name = ?2 "
        "RETURNING id, next_n - 1 AS n",
        (n, name),
    ).fetchone()
    return row["id"], row["n"] if n is None else n


def insert(
    connection: sqlite3.Connection,
    *,
    sha256: str,
    size: int,
    base: BaseModel,
    parents: Sequence[Parent],
    config: Mapping[str, Any],
    head: Mapping[str, Any] | None,
    recipe: Mapping[str, Any] | None,
    environment: Mapping[str, Any],
    store: str,
    **columns: Any,
) -> int:
    """Inserts the rows of a version, those of its file and its base where they are new.

    Args:
        connection: the catalogue.
        sha256: its file.
        size: of the file, in bytes.
        base: the model it was trained on.
        parents: what it was made from, named as ``name@n``.
        config: the method's configuration.
        head: its head as JSON.
        recipe: how it was made.
        environment: what made it.
        store: the store's folder, for messages.
        columns: all other columns of the table ``version``.

    Returns:
        The row id.
    """
    connection.execute(
        "INSERT INTO blob (sha256, bytes) VALUES (?, ?) ON CONFLICT DO NOTHING", (sha256, size)
    )
    version_id = insert_row(
        connection,
        "version",
        sha256=sha256,
        base_id=_base_id(connection, base),
        config=json_text(dict(config), "config"),
        head=None if head is None else json_text(dict(head), "head"),
        recipe=None if recipe is None else json_text(dict(recipe), "recipe"),
        environment=json_text(dict(environment), "environment"),
        **columns,
    )
    for position, parent in enumerate(parents):
        insert_row(
            connection,
            "parent",
            version_id=version_id,
            position=position,
            parent_id=versions.find(connection, parent.ref, store)[0],
            role=parent.role,
            weight=parent.weight,
        )
    return version_id


def _base_id(connection: sqlite3.Connection, base: BaseModel) -> int:
    key = (base.name, base.fingerprint, base.parameters)
    connection.execute(
        "INSERT INTO base_model (name, fingerprint, parameters) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        key,
    )
    row = connection.execute(
        "SELECT id FROM base_model WHERE name = ? AND fingerprint = ? AND parameters = ?", key
    ).fetchone()
    return int(row["id"])
