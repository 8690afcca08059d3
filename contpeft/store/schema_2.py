"""What the second schema adds: aliases with their history, tags, and the views people query.

``version_list``, ``version_score``, ``matrix``, ``forgetting`` and ``lineage`` are for users and other
tools; the tables may change with the next schema.
"""

from __future__ import annotations

from typing import Final

__all__ = ["STATEMENTS"]

_NOW: Final = "(strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))"

# "name@3" and "name@latest" must never be an alias's. The composite key keeps an alias on a version
# of its own adapter.
_ALIASES: Final = (
    "CREATE UNIQUE INDEX version_of_adapter ON version (id, adapter_id)",
    f"""
    CREATE TABLE alias (
        adapter_id INTEGER NOT NULL REFERENCES adapter (id) ON DELETE RESTRICT,
        name       TEXT NOT NULL COLLATE NOCASE
                   CHECK (length(name) BETWEEN 1 AND 128
                          AND name NOT GLOB '*[^A-Za-z0-9._-]*' AND name NOT GLOB '[.-]*'
                          AND name GLOB '*[^0-9]*' AND lower(name) <> 'latest'),
        version_id INTEGER NOT NULL,
        set_at     TEXT NOT NULL DEFAULT {_NOW},
        PRIMARY KEY (adapter_id, name),
        FOREIGN KEY (version_id, adapter_id) REFERENCES version (id, adapter_id) ON DELETE RESTRICT
    ) STRICT
    """,
    "CREATE INDEX alias_version ON alias (version_id, name)",
    # Numbers, not version ids: the history outlives the versions it tells of.
    f"""
    CREATE TABLE alias_change (
        id         INTEGER PRIMARY KEY AUTOINCREMENT,
        adapter_id INTEGER NOT NULL REFERENCES adapter (id) ON DELETE RESTRICT,
        name       TEXT NOT NULL COLLATE NOCASE,
        before     INTEGER,
        after      INTEGER,
        undoes     INTEGER UNIQUE REFERENCES alias_change (id),
        at         TEXT NOT NULL DEFAULT {_NOW},
        actor      TEXT NOT NULL,
        CHECK (before IS NOT after)
    ) STRICT
    """,
    "CREATE INDEX alias_change_name ON alias_change (adapter_id, name, id)",
    """
    CREATE TRIGGER alias_change_no_update BEFORE UPDATE ON alias_change
    BEGIN SELECT raise(ABORT, 'the history of an alias is append-only'); END
    """,
    """
    CREATE TRIGGER alias_change_no_delete BEFORE DELETE ON alias_change
    BEGIN SELECT raise(ABORT, 'the history of an alias is append-only'); END
    """,
)

_TAGS: Final = (
    """
    CREATE TABLE tag (
        version_id INTEGER NOT NULL REFERENCES version (id) ON DELETE CASCADE,
        key        TEXT NOT NULL
                   CHECK (length(key) BETWEEN 1 AND 128
                          AND key NOT GLOB '*[^A-Za-z0-9._-]*' AND key NOT GLOB '[.-]*'),
        value      TEXT NOT NULL,
        PRIMARY KEY (version_id, key)
    ) STRICT
    """,
    "CREATE INDEX tag_key ON tag (key, value, version_id)",
)

# A step names the versions it made and those that answer after it; a score is that of the former.
_MADE: Final = (
    "ALTER TABLE step_version ADD COLUMN made INTEGER NOT NULL DEFAULT 0 CHECK (made IN (0, 1))",
    """
    UPDATE step_version SET made = EXISTS (
        SELECT 1
        FROM step, json_each(step.versions) AS named, version
        JOIN adapter ON adapter.id = version.adapter_id
        WHERE step.id = step_version.step_id AND version.id = step_version.version_id
          AND named.value = adapter.name || '@' || version.n
    )
    """,
    "CREATE INDEX score_step ON score (run, way, step, metric)",
    "CREATE INDEX blob_bytes ON blob (bytes)",
)

# The order of CROSS JOIN is kept: from one version to its scores by indexes alone.
_STEP_SCORE: Final = """
    CREATE VIEW step_score AS
    SELECT step_version.version_id, score.run, score.way, score.step, score.answer, score.task,
           score.protocol, score.metric, score.value, score.n, score.id AS score_id,
           task.position IS NULL OR task.position <= score.step AS learned
    FROM step_version
    CROSS JOIN step ON step.id = step_version.step_id
    CROSS JOIN score ON score.run = step.run AND score.way = step.way AND score.step = step.step
    LEFT JOIN task ON task.run = score.run AND task.name = score.task
    WHERE step_version.made AND score.kind = 'end'
"""
# A fit outside of a sequence has no steps: what its run measured is what its version scored.
_FIT_SCORE: Final = """
    CREATE VIEW fit_score AS
    SELECT version.id AS version_id, score.run, score.way, score.step, score.answer, score.task,
           score.protocol, score.metric, score.value, score.n, score.id AS score_id, 1 AS learned
    FROM version
    CROSS JOIN score ON score.run = version.run
    WHERE score.kind = 'end' AND NOT EXISTS (SELECT 1 FROM step WHERE step.run = version.run)
"""
_VERSION_SCORE: Final = """
    CREATE VIEW version_score AS SELECT * FROM step_score UNION ALL SELECT * FROM fit_score
"""

# A view's computed column has no type of its own; CAST lets tools compare it as a number.
_VERSION_LIST: Final = """
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
           CAST((SELECT avg(value) FROM
             (SELECT value FROM step_score
              WHERE version_id = version.id AND metric = 'accuracy' AND protocol = 'task_aware' AND learned
              UNION ALL
              SELECT value FROM fit_score
              WHERE version_id = version.id AND metric = 'accuracy' AND protocol = 'task_aware' AND learned)
           ) AS REAL) AS accuracy
    FROM version
    JOIN adapter ON adapter.id = version.adapter_id
    JOIN base_model ON base_model.id = version.base_id
    JOIN blob ON blob.sha256 = version.sha256
"""

# Chaudhry et al. (2018), eq. 3, with the maximum over the steps since the task was learned.
_FORGETTING: Final = """
    CREATE VIEW forgetting AS
    WITH last AS (SELECT run, max(position) AS step FROM task GROUP BY run),
         seen AS (
             SELECT score.run, score.way, score.answer, score.protocol, score.metric, score.task,
                    task.position, task.lower_is_better,
                    max(CASE WHEN score.step < last.step THEN
                        CASE WHEN task.lower_is_better THEN -score.value ELSE score.value END
                    END) AS best,
                    max(CASE WHEN score.step = last.step THEN
                        CASE WHEN task.lower_is_better THEN -score.value ELSE score.value END
                    END) AS final
             FROM score
             JOIN task ON task.run = score.run AND task.name = score.task
             JOIN last ON last.run = score.run
             WHERE score.kind = 'end' AND score.step >= task.position AND task.position < last.step
             GROUP BY score.run, score.way, score.answer, score.protocol, score.metric, score.task
         )
    SELECT run, way, answer, protocol, metric, task, position,
           CAST(CASE WHEN lower_is_better THEN -best ELSE best END AS REAL) AS best_before,
           CAST(CASE WHEN lower_is_better THEN -final ELSE final END AS REAL) AS final,
           CAST(best - final AS REAL) AS forgetting
    FROM seen
"""

_LINEAGE: Final = """
    CREATE VIEW lineage AS
    SELECT child.id AS version_id, child_adapter.name || '@' || child.n AS ref, parent.role,
           parent.weight, parent.position, old.id AS parent_id,
           old_adapter.name || '@' || old.n AS parent
    FROM parent
    JOIN version AS child ON child.id = parent.version_id
    JOIN adapter AS child_adapter ON child_adapter.id = child.adapter_id
    JOIN version AS old ON old.id = parent.parent_id
    JOIN adapter AS old_adapter ON old_adapter.id = old.adapter_id
"""

STATEMENTS: Final = (
    *_ALIASES,
    *_TAGS,
    *_MADE,
    "DROP VIEW version_list",
    _STEP_SCORE,
    _FIT_SCORE,
    _VERSION_SCORE,
    _VERSION_LIST,
    _FORGETTING,
    _LINEAGE,
)
