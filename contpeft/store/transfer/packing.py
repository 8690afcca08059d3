"""From the catalogue to a pack: versions with all that makes them what they are."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Final

from contpeft.spec import Score, Version
from contpeft.store import runs, steps, tags, versions
from contpeft.store.rows import json_text
from contpeft.store.runs import Run
from contpeft.store.steps import Step
from contpeft.store.transfer.records import (
    AliasMove,
    AliasRecord,
    BaseRecord,
    Pack,
    ParentRecord,
    RunRecord,
    ScoreRecord,
    StepRecord,
    TagsRecord,
    TaskRecord,
    VersionRecord,
)

__all__ = ["pack"]

# A version needs its parents, and the steps that made it name what answered after them.
_NEEDED: Final = """
    WITH RECURSIVE needed (id) AS (
        SELECT value FROM json_each(?)
        UNION
        SELECT parent.parent_id FROM needed JOIN parent ON parent.version_id = needed.id
        UNION
        SELECT other.version_id
        FROM needed
        JOIN step_version AS own ON own.version_id = needed.id AND own.made
        JOIN step_version AS other ON other.step_id = own.step_id
    )
    SELECT id FROM needed ORDER BY id
"""
_HIDDEN: Final = """
    SELECT version.uid, version.identity, run.uid AS run_uid
    FROM version LEFT JOIN run ON run.name = version.run
    WHERE ?1 IS NULL OR version.id IN (SELECT value FROM json_each(?1))
    ORDER BY version.id
"""
_STEPS: Final = """
    SELECT DISTINCT step.run, step.way, step.step, step.scores_digest
    FROM step LEFT JOIN step_version ON step_version.step_id = step.id AND step_version.made
    WHERE ?1 IS NULL OR step_version.version_id IN (SELECT value FROM json_each(?1))
"""
_ALIASES: Final = """
    SELECT adapter.name AS adapter, change.name AS alias, change.at, change.actor, change.after
    FROM alias_change AS change JOIN adapter ON adapter.id = change.adapter_id
    WHERE ?1 IS NULL OR EXISTS (
        SELECT 1 FROM alias
        WHERE alias.adapter_id = change.adapter_id AND alias.name = change.name
          AND alias.version_id IN (SELECT value FROM json_each(?1)))
    ORDER BY adapter.name, change.name, change.id
"""


def pack(connection: sqlite3.Connection, refs: Sequence[str], store: str) -> Pack:
    """Returns versions with their parents, the steps that made them, scores, aliases and tags.

    Args:
        connection: the catalogue.
        refs: the versions; everything there is when empty.
        store: the store's folder, for messages.

    Raises:
        NotFoundError: if there is no such version.
    """
    ids = _needed(connection, refs, store) if refs else None
    found = _versions(connection, ids)
    return Pack(
        refs={version.ref: version.uid for version in found},
        versions=tuple(found),
        runs=tuple(_runs(connection, found, ids)),
        aliases=tuple(_aliases(connection, ids)),
        tags=tuple(_tags(connection, found)),
    )


def _needed(connection: sqlite3.Connection, refs: Sequence[str], store: str) -> str:
    asked = [versions.find(connection, ref, store)[0] for ref in refs]
    rows = connection.execute(_NEEDED, (json_text(asked, "ids"),))
    return json_text([row["id"] for row in rows], "ids")


def _versions(connection: sqlite3.Connection, ids: str | None) -> list[VersionRecord]:
    where = [] if ids is None else [("version.id IN (SELECT value FROM json_each(?))", ids)]
    found = versions.select(connection, where, order=("ORDER BY version.id",))
    hidden = connection.execute(_HIDDEN, (ids,)).fetchall()
    uids = {version.ref: row["uid"] for version, row in zip(found, hidden, strict=True)}
    return [_version(version, row, uids) for version, row in zip(found, hidden, strict=True)]


def _version(version: Version, hidden: sqlite3.Row, uids: Mapping[str, str]) -> VersionRecord:
    value = version.to_json()
    known = VersionRecord.model_fields.keys() & value.keys() - {"base", "parents", "run"}
    return VersionRecord(
        uid=hidden["uid"],
        identity=hidden["identity"],
        run=hidden["run_uid"],
        base=BaseRecord(**value["base"]),
        parents=tuple(ParentRecord(uid=uids[p.ref], role=p.role, weight=p.weight) for p in version.parents),
        **{key: value[key] for key in known},
    )


def _runs(connection: sqlite3.Connection, found: Sequence[VersionRecord], ids: str | None) -> list[RunRecord]:
    """Returns the runs of versions and of the steps that made them; all runs when ``ids`` is None."""
    done: dict[str, dict[tuple[str, int], str]] = {}
    for row in connection.execute(_STEPS, (ids,)):
        done.setdefault(row["run"], {})[row["way"], row["step"]] = row["scores_digest"]
    uids = {row["name"]: row["uid"] for row in connection.execute("SELECT name, uid FROM run")}
    made = {version.run for version in found}
    return [
        _run(connection, run, uids[run.name], done.get(run.name, {}), whole=ids is None)
        for run in runs.select(connection)
        if ids is None or run.name in done or uids[run.name] in made
    ]


def _run(
    connection: sqlite3.Connection, run: Run, uid: str, done: Mapping[tuple[str, int], str], *, whole: bool
) -> RunRecord:
    every = steps.select(connection, run.name, None)
    # The scores of a fit outside of a sequence belong to no step.
    whole = whole or not every
    scores = steps.select_scores(connection, run.name, None, None)
    content = run.content()
    return RunRecord(
        uid=uid,
        name=run.name,
        status=run.status,  # type: ignore[arg-type]
        started_at=run.started_at,
        finished_at=run.finished_at,
        config=content["config"],
        seed=content["seed"],
        scenario=content["scenario"],
        tasks=tuple(TaskRecord(**{**task, "classes": tuple(task["classes"])}) for task in content["tasks"]),
        steps=tuple(
            _step(step, done[step.way, step.step]) for step in every if (step.way, step.step) in done
        ),
        scores=tuple(_score(score) for score in scores if whole or (score.way, score.step) in done),
    )


def _step(step: Step, scores_digest: str) -> StepRecord:
    value = {key: item for key, item in step.to_json().items() if key != "run"}
    return StepRecord(**{**value, "versions": step.versions, "scores_digest": scores_digest})


def _score(score: Score) -> ScoreRecord:
    return ScoreRecord(**{key: item for key, item in asdict(score).items() if key != "run"})


def _aliases(connection: sqlite3.Connection, ids: str | None) -> Iterator[AliasRecord]:
    rows = connection.execute(_ALIASES, (ids,)).fetchall()
    for (adapter, alias), moves in groupby(rows, key=lambda row: (row["adapter"], row["alias"])):
        history = tuple(AliasMove(at=m["at"], actor=m["actor"], after=m["after"]) for m in moves)
        yield AliasRecord(adapter=adapter, alias=alias, history=history)


def _tags(connection: sqlite3.Connection, found: Sequence[VersionRecord]) -> Iterator[TagsRecord]:
    known = tags.of(connection, ())
    for version in found:
        if version.ref in known:
            yield TagsRecord(uid=version.uid, tags=known[version.ref])
