"""The references a shell can complete: read quickly, and nothing made or upgraded for it."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Final

from contpeft.store.database import SCHEMA_VERSION
from contpeft.store.query import open_read_only

__all__ = ["remotes", "spellings"]

_SPELLINGS: Final = """
    SELECT name FROM adapter
    UNION ALL
    SELECT adapter.name || '@' || alias.name FROM alias JOIN adapter ON adapter.id = alias.adapter_id
    UNION ALL
    SELECT * FROM (
        SELECT adapter.name || '@' || version.n FROM version JOIN adapter ON adapter.id = version.adapter_id
        WHERE adapter.name LIKE :name || '%' ORDER BY version.id DESC LIMIT 200
    )
"""


def spellings(store: Path, start: str) -> list[str]:
    """Returns names, aliases and newest versions that begin with ``start``; none where is no store."""
    return _beginning(store, start, _SPELLINGS)


def remotes(store: Path, start: str) -> list[str]:
    """Returns the names of remotes that begin with ``start``; none where is no store."""
    return _beginning(store, start, "SELECT name FROM remote WHERE name LIKE :name || '%'")


def _beginning(store: Path, start: str, question: str) -> list[str]:
    catalogue = store / "store.db"
    if not catalogue.exists():
        return []
    with closing(open_read_only(catalogue)) as connection:
        if connection.execute("PRAGMA user_version").fetchone()[0] != SCHEMA_VERSION:
            return []
        rows = connection.execute(question, {"name": start.partition("@")[0]})
        return sorted(text for (text,) in rows if text.startswith(start))
