"""The audit log: one row for each change, never edited."""

from __future__ import annotations

import functools
import getpass
import os
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from contpeft.digest import canonical_json
from contpeft.store.rows import parse_json

__all__ = ["Event", "actor", "record", "select"]


@dataclass(frozen=True)
class Event:
    """One change to the store.

    Attributes:
        at: UTC, ISO 8601.
        actor: who made it, as the operating system names them.
        action: what was done (``"version.registered"``, ``"run.started"``, ...).
        subject: what it was done to: ``name@n``, ``name@alias``, a name, a run, or ``run/way/step``.
        detail: whatever else says what changed.
    """

    at: str
    actor: str
    action: str
    subject: str
    detail: Mapping[str, Any]


def record(connection: sqlite3.Connection, action: str, subject: str, **detail: Any) -> None:
    """Writes one event in the caller's transaction."""
    connection.execute(
        "INSERT INTO event (actor, action, subject, detail) VALUES (?, ?, ?, ?)",
        (actor(), action, subject, canonical_json(detail)),
    )


def select(connection: sqlite3.Connection, subject: str | None) -> list[Event]:
    """Returns the events of ``subject``, or all of them, oldest first."""
    rows = connection.execute(
        "SELECT at, actor, action, subject, detail FROM event WHERE ?1 IS NULL OR subject = ?1 ORDER BY id",
        (subject,),
    )
    return [
        Event(row["at"], row["actor"], row["action"], row["subject"], parse_json(row["detail"]))
        for row in rows
    ]


@functools.cache
def actor() -> str:
    """Returns who this process runs for, as the operating system names them."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a user id that has no name
        return f"uid {os.getuid()}"
