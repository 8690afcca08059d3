"""The schema, as numbered steps that are never edited once released.

Every ``REFERENCES`` names its column, because tools that follow foreign keys need it. Timestamps are
UTC ISO 8601 text: readable, sortable, and ``datetime()`` takes them.
"""

from __future__ import annotations

import sqlite3

from sqlite_utils import Database, Migrations

from contpeft.store import schema_2, schema_3

__all__ = ["apply"]

migration = Migrations("contpeft")


def apply(connection: sqlite3.Connection) -> None:
    """Applies what is missing; the caller holds the write lock in one transaction and commits."""
    # Plug-ins may change a connection; a store must behave the same on every machine.
    migration.apply(Database(connection, execute_plugins=False))


@migration()
def m001_catalogue(db: Database) -> None:
    """Adapters, versions and their lineage; runs, steps and scores; the audit log."""
    for statement in (*_VERSIONS, *_RUNS, *_EVENTS, *_VIEWS):
        db.execute(statement)


@migration()
def m002_upkeep(db: Database) -> None:
    """Aliases with their history, tags, and the views people query."""
    for statement in schema_2.STATEMENTS:
        db.execute(statement)


@migration()
def m003_exchange(db: Database) -> None:
    """Identities that are the same in every store, and remotes."""
    for statement in schema_3.STATEMENTS:
        db.execute(statement)


_NOW = "(strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))"

_VERSIONS = (
    f"""
    CREATE TABLE blob (
        sha256     TEXT PRIMARY KEY CHECK (length(sha256) = 64 AND sha256 NOT GLOB '*[^0-9a-f]*'),
        bytes      INTEGER NOT NULL CHECK (bytes > 0),
        created_at TEXT NOT NULL DEFAULT {_NOW}
    ) STRICT
    """,
    """
    CREATE TABLE base_model (
        id          INTEGER PRIMARY KEY,
        name        TEXT NOT NULL,
        fingerprint TEXT NOT NULL,
        parameters  INTEGER NOT NULL CHECK (parameters >= 0),
        UNIQUE (fingerprint, name, parameters)
    ) STRICT
    """,
    # next_n never goes back, so the number of a deleted version is not given again.
    f"""
    CREATE TABLE adapter (
        id         INTEGER PRIMARY KEY,
        name       TEXT NOT NULL UNIQUE COLLATE NOCASE
                   CHECK (length(name) BETWEEN 1 AND 128
                          AND name NOT GLOB '*[^A-Za-z0-9._-]*' AND name NOT GLOB '[.-]*'),
        next_n     INTEGER NOT NULL DEFAULT 1 CHECK (next_n > 0),
        created_at TEXT NOT NULL DEFAULT {_NOW}
    ) STRICT
    """,
    # AUTOINCREMENT: the CHECK on parents relies on ids that never come back.
    f"""
    CREATE TABLE version (
        id          INTEGER PRIMARY KEY AUTOINCREMENT,
        adapter_id  INTEGER NOT NULL REFERENCES adapter (id) ON DELETE RESTRICT,
        n           INTEGER NOT NULL CHECK (n > 0),
        kind        TEXT NOT NULL,
        sha256      TEXT NOT NULL REFERENCES blob (sha256) ON DELETE RESTRICT,
        fingerprint TEXT NOT NULL,
        parameters  INTEGER NOT NULL CHECK (parameters >= 0),
        config      TEXT NOT NULL,
        head        TEXT,
        base_id     INTEGER NOT NULL REFERENCES base_model (id) ON DELETE RESTRICT,
        origin      TEXT NOT NULL CHECK (origin IN ('trained', 'fused', 'imported')),
        recipe      TEXT,
        run         TEXT REFERENCES run (name) ON DELETE RESTRICT,
        task        TEXT,
        data        TEXT,
        environment TEXT NOT NULL,
        seconds     REAL CHECK (seconds >= 0),
        identity    TEXT NOT NULL,
        created_at  TEXT NOT NULL DEFAULT {_NOW},
        UNIQUE (adapter_id, n),
        UNIQUE (adapter_id, identity),
        CHECK (origin <> 'fused' OR recipe IS NOT NULL)
    ) STRICT
    """,
    "CREATE INDEX version_sha256 ON version (sha256)",
    "CREATE INDEX version_kind ON version (kind, id)",
    "CREATE INDEX version_run ON version (run, id)",
    "CREATE INDEX version_task ON version (task, id)",
    "CREATE INDEX version_base ON version (base_id, id)",
    """
    CREATE TRIGGER version_immutable BEFORE UPDATE ON version
    BEGIN SELECT raise(ABORT, 'a version never changes; register a new one'); END
    """,
    # Parents are older than their children, so lineage has no cycle.
    """
    CREATE TABLE parent (
        version_id INTEGER NOT NULL REFERENCES version (id) ON DELETE CASCADE,
        position   INTEGER NOT NULL CHECK (position >= 0),
        parent_id  INTEGER NOT NULL REFERENCES version (id) ON DELETE RESTRICT,
        role       TEXT NOT NULL CHECK (role IN ('continued', 'fused', 'distilled', 'frozen')),
        weight     REAL,
        PRIMARY KEY (version_id, position),
        UNIQUE (version_id, parent_id, role),
        CHECK (parent_id < version_id)
    ) STRICT
    """,
    "CREATE INDEX parent_parent ON parent (parent_id)",
)

_RUNS = (
    f"""
    CREATE TABLE run (
        name        TEXT PRIMARY KEY,
        config      TEXT NOT NULL,
        seed        INTEGER NOT NULL,
        scenario    TEXT NOT NULL,
        status      TEXT NOT NULL DEFAULT 'running'
                    CHECK (status IN ('running', 'finished', 'failed', 'interrupted')),
        started_at  TEXT NOT NULL DEFAULT {_NOW},
        finished_at TEXT
    ) STRICT
    """,
    """
    CREATE TABLE task (
        run             TEXT NOT NULL REFERENCES run (name) ON DELETE CASCADE,
        position        INTEGER NOT NULL CHECK (position >= 0),
        name            TEXT NOT NULL,
        classes         TEXT NOT NULL,
        metric          TEXT NOT NULL,
        lower_is_better INTEGER NOT NULL CHECK (lower_is_better IN (0, 1)),
        PRIMARY KEY (run, position),
        UNIQUE (run, name)
    ) STRICT
    """,
    """
    CREATE TABLE step (
        id            INTEGER PRIMARY KEY,
        run           TEXT NOT NULL REFERENCES run (name) ON DELETE CASCADE,
        way           TEXT NOT NULL,
        step          INTEGER NOT NULL CHECK (step >= 0),
        task          TEXT NOT NULL,
        answers       TEXT NOT NULL,
        versions      TEXT NOT NULL,
        detail        TEXT NOT NULL,
        scores_digest TEXT NOT NULL,
        seconds       REAL NOT NULL CHECK (seconds >= 0),
        finished_at   TEXT NOT NULL,
        UNIQUE (run, way, step)
    ) STRICT
    """,
    # Every version a step made or answers with: it cannot be deleted while the step stands.
    """
    CREATE TABLE step_version (
        step_id    INTEGER NOT NULL REFERENCES step (id) ON DELETE CASCADE,
        version_id INTEGER NOT NULL REFERENCES version (id) ON DELETE RESTRICT,
        PRIMARY KEY (step_id, version_id)
    ) STRICT
    """,
    "CREATE INDEX step_version_version ON step_version (version_id)",
    # SQLite keeps NaN as NULL, which NOT NULL refuses; 9e999 is its infinity.
    f"""
    CREATE TABLE score (
        id          INTEGER PRIMARY KEY,
        run         TEXT NOT NULL REFERENCES run (name) ON DELETE CASCADE,
        way         TEXT NOT NULL,
        answer      TEXT NOT NULL,
        step        INTEGER NOT NULL CHECK (step >= -1),
        task        TEXT NOT NULL,
        protocol    TEXT NOT NULL CHECK (protocol IN ('task_aware', 'seen_classes', 'all_classes')),
        metric      TEXT NOT NULL,
        kind        TEXT NOT NULL CHECK (kind IN ('end', 'start')),
        value       REAL NOT NULL CHECK (abs(value) < 9e999),
        n           INTEGER NOT NULL CHECK (n > 0),
        composition TEXT NOT NULL,
        data        TEXT NOT NULL,
        copied      INTEGER NOT NULL CHECK (copied IN (0, 1)),
        created_at  TEXT NOT NULL DEFAULT {_NOW},
        UNIQUE (run, way, answer, step, task, protocol, metric, kind)
    ) STRICT
    """,
    "CREATE INDEX score_cell ON score (composition, data, protocol, metric, id)",
    """
    CREATE TRIGGER score_immutable BEFORE UPDATE ON score
    BEGIN SELECT raise(ABORT, 'a score never changes; measure under another run'); END
    """,
)

_EVENTS = (
    f"""
    CREATE TABLE event (
        id      INTEGER PRIMARY KEY AUTOINCREMENT,
        at      TEXT NOT NULL DEFAULT {_NOW},
        actor   TEXT NOT NULL,
        action  TEXT NOT NULL,
        subject TEXT NOT NULL,
        detail  TEXT NOT NULL
    ) STRICT
    """,
    "CREATE INDEX event_subject ON event (subject, id)",
    """
    CREATE TRIGGER event_no_update BEFORE UPDATE ON event
    BEGIN SELECT raise(ABORT, 'events are append-only'); END
    """,
    """
    CREATE TRIGGER event_no_delete BEFORE DELETE ON event
    BEGIN SELECT raise(ABORT, 'events are append-only'); END
    """,
)

_VIEWS = (
    """
    CREATE VIEW version_list AS
    SELECT version.id, adapter.name || '@' || version.n AS ref, adapter.name, version.n, version.kind,
           version.origin, base_model.name AS base, version.run, version.task, version.parameters,
           blob.bytes, version.seconds, version.sha256, version.created_at,
           (SELECT count(*) FROM parent WHERE parent.version_id = version.id) AS parents
    FROM version
    JOIN adapter ON adapter.id = version.adapter_id
    JOIN base_model ON base_model.id = version.base_id
    JOIN blob ON blob.sha256 = version.sha256
    """,
    """
    CREATE VIEW matrix AS
    SELECT score.run, score.way, score.answer, score.protocol, score.metric, score.step, score.task,
           task.position, score.value, score.n, score.copied
    FROM score
    LEFT JOIN task ON task.run = score.run AND task.name = score.task
    WHERE score.kind = 'end'
    """,
)
