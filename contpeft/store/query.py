"""Questions in SQL, on a connection that cannot change anything."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contpeft.errors import UsageError

__all__ = ["Answer", "open_read_only", "query"]


@dataclass(frozen=True)
class Answer:
    """The answer of a query.

    Attributes:
        columns: their names.
        rows: the values, row by row.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    def to_json(self) -> list[dict[str, Any]]:
        """Returns each row as an object."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


def query(path: Path, sql: str) -> Answer:
    """Returns what a catalogue answers to one SELECT.

    Raises:
        UsageError: if it is no query, or one that would change something.
    """
    with closing(open_read_only(path)) as connection:
        connection.set_authorizer(_no_other_files)
        try:
            cursor = connection.execute(sql)
            rows = tuple(cursor.fetchall())
        except (sqlite3.Warning, sqlite3.OperationalError, sqlite3.ProgrammingError) as error:
            raise UsageError(f"cannot run this query: {error}") from error
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_AUTH:
                raise
            raise UsageError("cannot run this query: it reaches for other files") from error
    if cursor.description is None:
        raise UsageError("this query has no answer; ask with SELECT")
    return Answer(tuple(column[0] for column in cursor.description), rows)


def open_read_only(path: Path) -> sqlite3.Connection:
    """Returns a connection that only reads; it neither makes nor upgrades a catalogue."""
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    connection.execute("PRAGMA query_only = ON")
    connection.execute("PRAGMA trusted_schema = OFF")
    return connection


def _no_other_files(action: int, *_: str | None) -> int:
    return sqlite3.SQLITE_DENY if action == sqlite3.SQLITE_ATTACH else sqlite3.SQLITE_OK
