"""What rows hold besides plain columns: JSON text and finite numbers."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

from contpeft.digest import canonical_json
from contpeft.errors import IntegrityError, SpecError

__all__ = [
    "MISSING",
    "check_finite",
    "differences",
    "insert_row",
    "json_text",
    "now",
    "parse_json",
    "timestamp",
]


MISSING: Final = object()


def now() -> str:
    """Returns the time as rows keep it: UTC, ISO 8601, to the millisecond."""
    return timestamp(datetime.now(UTC))


def timestamp(moment: datetime) -> str:
    """Returns a time as rows keep it; one without a zone is local time."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def insert_row(connection: sqlite3.Connection, table: str, **columns: Any) -> int:
    """Inserts one row and returns its id."""
    marks = ", ".join(f":{column}" for column in columns)
    cursor = connection.execute(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", columns)
    return int(cursor.lastrowid or 0)


def json_text(value: Any, what: str) -> str:
    """Returns ``value`` as canonical JSON.

    Raises:
        SpecError: if it has no JSON form, naming ``what``.
    """
    try:
        return canonical_json(value)
    except (TypeError, ValueError) as error:
        raise SpecError(f"{what} has no JSON form: {error}") from error


def parse_json(text: str) -> Any:
    """Returns the value of stored JSON.

    Raises:
        IntegrityError: if it is not JSON any more.
    """
    try:
        return json.loads(text)
    except ValueError as error:
        raise IntegrityError(f"the store is damaged: {text[:60]!r} is no JSON; restore a backup") from error


def check_finite(value: float | None, what: str) -> float | None:
    """Returns ``value`` as a float, or None as it is.

    Raises:
        SpecError: if it is NaN or infinite (SQLite would keep NaN as NULL).
    """
    if value is None:
        return None
    number = float(value)
    if not math.isfinite(number):
        raise SpecError(f"{what} is {number}; leave it out when it was not measured")
    return number


def differences(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yields dotted key, old and new value of every leaf in which two JSON values differ.

    A value that is not there is :data:`MISSING`.
    """
    if isinstance(old, list) and isinstance(new, list):
        old, new = dict(enumerate(old)), dict(enumerate(new))
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            inner = f"{path}.{key}" if path else str(key)
            yield from differences(old.get(key, MISSING), new.get(key, MISSING), inner)
    elif old is MISSING or new is MISSING or canonical_json(old) != canonical_json(new):
        yield path, old, new
