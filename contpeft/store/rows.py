"""What rows hold besides plain columns: JSON text and finite numbers."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

from contpeft.digest import canonical_json
from contpeft.errors import IntegrityError, SpecError

__all__ = ["check_finite", "json_text", "now", "parse_json"]


def now() -> str:
    """Returns the time as rows keep it: UTC, ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


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
