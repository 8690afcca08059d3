"""The one way in: a state's file is made durable, then the rows that name it."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from contpeft.digest import bytes_digest
from contpeft.errors import StoreBusyError
from contpeft.spec import Version
from contpeft.store import drafts, events, versions
from contpeft.store.blobs import Blobs
from contpeft.store.database import Database
from contpeft.store.drafts import Draft
from contpeft.store.tensors import Payload, describe, serialize

__all__ = ["register"]


def register(database: Database, blobs: Blobs, draft: Draft, store: str) -> Version:
    """Stores a draft as the next version of its adapter, or returns the version it repeats.

    Args:
        database: the catalogue.
        blobs: the files.
        draft: what to store.
        store: the store's folder, for messages.
    """
    data = serialize(draft.state.tensors, draft.name)
    # Its tensors are hashed beside all else: hashing holds no lock of Python's.
    with ThreadPoolExecutor(1) as beside:
        described = beside.submit(describe, data)
        sha256 = bytes_digest(data)
        with database.read() as connection:
            draft = drafts.pin(connection, draft, store)
        if blobs.present(sha256, len(data)):
            known = _known(database, blobs, draft, Payload(data, sha256, *described.result()))
            if known is not None:
                return known
        damaged = blobs.put(data, sha256)
    return insert(database, blobs, draft, Payload(data, sha256, *described.result()), damaged, store)


def insert(
    database: Database, blobs: Blobs, draft: Draft, payload: Payload, damaged: Path | None, store: str
) -> Version:
    """Inserts the rows of a version whose file is durable.

    Args:
        database: the catalogue.
        blobs: the files.
        draft: what to store.
        payload: its file.
        damaged: where a damaged file of that name went.
        store: the store's folder, for messages.
    """
    with database.write() as connection:
        _keep_present(blobs, payload, store)
        if damaged:
            events.record(connection, "blob.healed", payload.sha256, quarantine=damaged.name)
        draft = drafts.pin(connection, draft, store)
        found = drafts.existing(connection, draft, payload) or drafts.insert(
            connection, draft, payload, store
        )
        return _version(connection, found)


def _known(database: Database, blobs: Blobs, draft: Draft, payload: Payload) -> Version | None:
    """Returns the version that a draft repeats, if it is there and whole."""
    with database.read() as connection:
        found = drafts.existing(connection, draft, payload)
        version = _version(connection, found) if found else None
    return version if version and blobs.intact(payload.sha256, len(payload.data)) else None


def _keep_present(blobs: Blobs, payload: Payload, store: str) -> None:
    """Writes the file again if it was collected before the write lock, which the caller holds, came."""
    size = len(payload.data)
    if not blobs.present(payload.sha256, size):
        blobs.put(payload.data, payload.sha256)
        if not blobs.present(payload.sha256, size):
            raise StoreBusyError(
                f"files vanish from {store}/blobs while they are being stored; "
                "stop whatever deletes them and try again"
            )


def _version(connection: sqlite3.Connection, version_id: int) -> Version:
    return versions.select(connection, [("version.id = ?", version_id)])[0]
