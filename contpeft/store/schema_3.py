"""What the third schema adds: an identity that is the same in every store, remotes, and their packs."""

from __future__ import annotations

from typing import Final

__all__ = ["STATEMENTS"]

_NOW: Final = "(strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))"

# Names may change and differ from store to store; what a version was when it was registered cannot.
_IDENTITY: Final = (
    "ALTER TABLE version ADD COLUMN uid TEXT NOT NULL DEFAULT ''",
    "DROP TRIGGER version_immutable",
    """
    UPDATE version SET uid =
        (SELECT name FROM adapter WHERE id = adapter_id) || '@' || n || ' ' || created_at || ' ' || identity
    """,
    """
    CREATE TRIGGER version_immutable BEFORE UPDATE ON version
    BEGIN SELECT raise(ABORT, 'a version never changes; register a new one'); END
    """,
    "CREATE UNIQUE INDEX version_uid ON version (uid)",
    "ALTER TABLE run ADD COLUMN uid TEXT NOT NULL DEFAULT ''",
    "UPDATE run SET uid = name || ' ' || started_at",
    "CREATE UNIQUE INDEX run_uid ON run (uid)",
)

_REMOTES: Final = (
    f"""
    CREATE TABLE remote (
        name     TEXT PRIMARY KEY COLLATE NOCASE
                 CHECK (length(name) BETWEEN 1 AND 128
                        AND name NOT GLOB '*[^A-Za-z0-9._-]*' AND name NOT GLOB '[.-]*'),
        url      TEXT NOT NULL,
        added_at TEXT NOT NULL DEFAULT {_NOW}
    ) STRICT
    """,
    # A pack is named by its content, so what one holds need be read only once, from wherever.
    f"""
    CREATE TABLE pack (
        sha256     TEXT PRIMARY KEY CHECK (length(sha256) = 64 AND sha256 NOT GLOB '*[^0-9a-f]*'),
        records    TEXT NOT NULL,
        merged     INTEGER NOT NULL CHECK (merged IN (0, 1)),
        created_at TEXT NOT NULL DEFAULT {_NOW}
    ) STRICT
    """,
)

STATEMENTS: Final = (*_IDENTITY, *_REMOTES)
