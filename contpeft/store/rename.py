"""Renaming an adapter, where nothing that was written down would name it wrongly."""

from __future__ import annotations

import sqlite3
from typing import Final

from contpeft.errors import SpecError, UsageError
from contpeft.spec import check_name
from contpeft.store import events, versions

__all__ = ["rename"]

# Steps and recipes are text that names versions by name@n, and neither may change.
_WRITTEN: Final = """
    SELECT 'step ' || step.run || '/' || step.way || '/' || step.step AS place
    FROM version
    JOIN step_version ON step_version.version_id = version.id
    JOIN step ON step.id = step_version.step_id
    WHERE version.adapter_id = :id
    UNION ALL
    SELECT 'the recipe of ' || adapter.name || '@' || version.n
    FROM version
    JOIN adapter ON adapter.id = version.adapter_id, json_tree(version.recipe) AS value
    WHERE value.type = 'text' AND value.atom LIKE :refs ESCAPE '!'
    LIMIT 1
"""


def rename(connection: sqlite3.Connection, old: str, new: str, store: str) -> None:
    """Gives an adapter another name in the caller's transaction.

    Raises:
        NotFoundError: if there is no adapter ``old``.
        SpecError: if ``new`` is no name, or another adapter's.
        UsageError: if a step or a recipe names a version of it.
    """
    adapter_id = versions.adapter_id(connection, old, store)
    check_name(new)
    known = versions.spelling(connection, new)
    if known is not None and known != old:
        raise SpecError(f"there is an adapter {known!r} in {store} already; choose another name")
    key = {"id": adapter_id, "refs": old.replace("!", "!!").replace("_", "!_").replace("%", "!%") + "@%"}
    written = connection.execute(_WRITTEN, key).fetchone()
    if written:
        raise UsageError(f"adapter {old!r} in {store} cannot be renamed: {written['place']} names it")
    if new != old:
        connection.execute("UPDATE adapter SET name = ? WHERE id = ?", (new, adapter_id))
        events.record(connection, "adapter.renamed", old, to=new)
