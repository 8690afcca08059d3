"""What the third schema adds: identities that are the same in every store, remotes, means of scores."""

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

_MEAN: Final = "INSERT OR REPLACE INTO version_metric SELECT version_id, metric, protocol, avg(value)"
# The mean over the tasks learned when a version was made, kept so that it can be searched and sorted by.
_MEANS: Final = (
    """
    CREATE TABLE version_metric (
        version_id INTEGER NOT NULL REFERENCES version (id) ON DELETE CASCADE,
        metric     TEXT NOT NULL,
        protocol   TEXT NOT NULL,
        value      REAL NOT NULL,
        PRIMARY KEY (version_id, metric, protocol)
    ) STRICT
    """,
    "CREATE INDEX version_metric_value ON version_metric (metric, protocol, value, version_id)",
    f"{_MEAN} FROM version_score WHERE learned GROUP BY version_id, metric, protocol",
    # A step is written after its scores here, and before them where it arrives from elsewhere.
    f"""
    CREATE TRIGGER step_version_metric AFTER INSERT ON step_version WHEN NEW.made
    BEGIN
        {_MEAN} FROM step_score WHERE version_id = NEW.version_id AND learned GROUP BY metric, protocol;
    END
    """,
    f"""
    CREATE TRIGGER score_metric AFTER INSERT ON score WHEN NEW.kind = 'end'
    BEGIN
        {_MEAN} FROM step_score
        WHERE version_id IN (
            SELECT step_version.version_id FROM step JOIN step_version ON step_version.step_id = step.id
            WHERE step.run = NEW.run AND step.way = NEW.way AND step.step = NEW.step AND step_version.made)
          AND metric = NEW.metric AND protocol = NEW.protocol AND learned
        GROUP BY version_id;
    END
    """,
    f"""
    CREATE TRIGGER fit_metric AFTER INSERT ON score
    WHEN NEW.kind = 'end' AND NOT EXISTS (SELECT 1 FROM step WHERE run = NEW.run)
    BEGIN
        {_MEAN} FROM fit_score
        WHERE version_id IN (SELECT id FROM version WHERE run = NEW.run)
          AND metric = NEW.metric AND protocol = NEW.protocol
        GROUP BY version_id;
    END
    """,
    f"""
    CREATE TRIGGER version_fit_metric AFTER INSERT ON version WHEN NEW.run IS NOT NULL
    BEGIN
        {_MEAN} FROM fit_score WHERE version_id = NEW.id GROUP BY metric, protocol;
    END
    """,
    # What a run measures before its first step belongs to no version once it has steps.
    """
    CREATE TRIGGER step_metric AFTER INSERT ON step
    WHEN NOT EXISTS (SELECT 1 FROM step WHERE run = NEW.run AND id <> NEW.id)
    BEGIN
        DELETE FROM version_metric WHERE version_id IN (SELECT id FROM version WHERE run = NEW.run);
    END
    """,
    "DROP VIEW version_list",
    """
    CREATE VIEW version_list AS
    SELECT version.id, adapter.name || '@' || version.n AS ref, adapter.name, version.n, version.kind,
           version.origin, base_model.name AS base, version.run, version.task, version.parameters,
           blob.bytes, version.seconds, version.sha256, version.created_at,
           (SELECT count(*) FROM parent WHERE parent.version_id = version.id) AS parents,
           (SELECT group_concat(name, ' ') FROM
             (SELECT alias.name FROM alias WHERE alias.version_id = version.id ORDER BY alias.name)
           ) AS aliases,
           (SELECT group_concat(key || '=' || value, ', ') FROM
             (SELECT key, value FROM tag WHERE tag.version_id = version.id ORDER BY key)
           ) AS tags,
           (SELECT value FROM version_metric WHERE version_metric.version_id = version.id
             AND metric = 'accuracy' AND protocol = 'task_aware') AS accuracy
    FROM version
    JOIN adapter ON adapter.id = version.adapter_id
    JOIN base_model ON base_model.id = version.base_id
    JOIN blob ON blob.sha256 = version.sha256
    """,
)

STATEMENTS: Final = (*_IDENTITY, *_REMOTES, *_MEANS)
