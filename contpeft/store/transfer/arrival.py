"""From packs into the catalogue: the union of what is here and what others have.

What is here never changes. A version keeps its name and number wherever both are free; where
another version has them it arrives under a name of its own, and what names it is written so.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any

from contpeft.digest import json_digest
from contpeft.errors import IntegrityError
from contpeft.spec import BaseModel, Parent, Score, Task, composition_from_json
from contpeft.store import aliases, entry, events, runs, steps, tags, versions
from contpeft.store.rows import json_text
from contpeft.store.runs import Run
from contpeft.store.steps import Step
from contpeft.store.transfer.records import (
    AliasRecord,
    Pack,
    RunRecord,
    ScoreRecord,
    StepRecord,
    TagsRecord,
    VersionRecord,
)
from contpeft.store.transfer.results import Arrived, Conflict

__all__ = ["merge", "missing"]


def missing(connection: sqlite3.Connection, packs: Iterable[Pack]) -> list[VersionRecord]:
    """Returns the versions of packs that are not here."""
    records = {record.uid: record for pack in packs for record in pack.versions}
    here = _local(connection, records)
    return [record for uid, record in records.items() if uid not in here]


def merge(connection: sqlite3.Connection, packs: Sequence[Pack], store: str, source: str) -> Arrived:
    """Writes what packs hold and is not here, in the caller's transaction.

    Args:
        connection: the catalogue; the files of new versions must be in place.
        packs: what came.
        store: the store's folder, for messages.
        source: where it came from, for the audit log and messages.

    Raises:
        IntegrityError: if a pack names a version or a run that is neither in the packs nor here, or
            a step that is no step.
    """
    merging = _Merging(connection, store, source)
    for pack in packs:
        merging.add_runs(pack)
    merging.add_versions(packs)
    for pack in packs:
        names = merging.names(pack)
        for run in pack.runs:
            merging.add_results(run, names)
        for alias in pack.aliases:
            merging.move_alias(alias, names)
        for record in pack.tags:
            merging.add_tags(record)
    return merging.arrived()


@dataclass
class _Merging:
    connection: sqlite3.Connection
    store: str
    source: str
    refs: dict[str, str] = field(default_factory=dict)  # by uid
    runs: dict[str, str | None] = field(default_factory=dict)  # by uid
    new: list[str] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)
    grown: dict[str, int] = field(default_factory=dict)  # new scores by run
    moved: list[str] = field(default_factory=list)
    conflicts: list[Conflict] = field(default_factory=list)

    def arrived(self) -> Arrived:
        return Arrived(
            tuple(self.new),
            self.renamed,
            tuple(self.grown),
            sum(self.grown.values()),
            tuple(dict.fromkeys(self.moved)),
            tuple(dict.fromkeys(self.conflicts)),
        )

    def names(self, pack: Pack) -> dict[str, str]:
        """Returns what the versions a pack names are called here."""
        return {ref: self.refs[uid] for ref, uid in pack.refs.items() if uid in self.refs}

    def add_runs(self, pack: Pack) -> None:
        for record in pack.runs:
            before = self.connection.total_changes
            self.runs[record.uid] = name = runs.arrive(self.connection, _run(record), record.uid)
            if name is None:
                self.conflicts.append(Conflict(record.name, "another configuration", "one configuration"))
            elif self.connection.total_changes > before:
                self.grown.setdefault(name, 0)

    def add_versions(self, packs: Sequence[Pack]) -> None:
        sent = {record.uid: (record, pack) for pack in packs for record in pack.versions}
        named = {uid for pack in packs for uid in pack.refs.values()}
        self.refs |= _local(self.connection, named | sent.keys())
        for uid in _parents_first({uid: record for uid, (record, _) in sent.items()}, self.source):
            if uid not in self.refs:
                record, pack = sent[uid]
                self.refs[uid] = self._same(record) or self._insert(record, self.names(pack))

    def add_results(self, record: RunRecord, names: Mapping[str, str]) -> None:
        """Adds steps and scores; those of a step that is another one here stay away."""
        run = self.runs[record.uid]
        if run is None:
            return
        before = self.connection.total_changes
        other = {(s.way, s.step) for s in record.steps if not self._add_step(run, s, names)}
        cells = [cell for cell in record.scores if (cell.way, cell.step) not in other]
        added = sum(self._add_score(run, cell) for cell in cells)
        if self.connection.total_changes > before:
            self.grown[run] = self.grown.get(run, 0) + added

    def move_alias(self, record: AliasRecord, names: Mapping[str, str]) -> None:
        """Moves an alias on where its history here is the beginning of the one there."""
        subject = f"{record.adapter}@{record.alias}"
        after = record.history[-1].after
        there = _numbered(record.adapter, after)
        here = there if after is None else names.get(there, "not here")
        if here != there:
            self.conflicts.append(Conflict(subject, here, there))
            return
        if versions.spelling(self.connection, record.adapter) != record.adapter:
            return  # an alias that is gone, of an adapter that is not here
        moved, known = aliases.arrive(self.connection, record, self.store)
        if moved:
            self.moved.append(subject)
        elif known != after:
            self.conflicts.append(Conflict(subject, _numbered(record.adapter, known), there))

    def add_tags(self, record: TagsRecord) -> None:
        """Adds the tags a version does not have here."""
        ref = self.refs[record.uid]
        known = tags.of(self.connection, [ref]).get(ref, {})
        for key, value in record.tags.items():
            if known.get(key, value) != value:
                self.conflicts.append(Conflict(f"{ref} tag {key}", known[key], value))
        tags.put(self.connection, ref, {**record.tags, **known}, self.store)

    def _same(self, record: VersionRecord) -> str | None:
        """Returns the version that registering this one here would have found."""
        row = self.connection.execute(
            """
            SELECT adapter.name || '@' || version.n AS ref
            FROM version JOIN adapter ON adapter.id = version.adapter_id
            WHERE adapter.name = ? COLLATE BINARY AND version.identity = ?
            """,
            (record.ref.partition("@")[0], record.identity),
        ).fetchone()
        return row["ref"] if row else None

    def _insert(self, record: VersionRecord, names: Mapping[str, str]) -> str:
        name, _, number = record.ref.partition("@")
        if self._taken(record):
            name = f"{name[:119]}.{json_digest(record.uid)[:8]}"
            self.renamed[f"{name}@{number}"] = record.ref
        adapter_id, n = entry.place(self.connection, name, int(number))
        same = (
            "kind",
            "fingerprint",
            "parameters",
            "origin",
            "task",
            "data",
            "seconds",
            "identity",
            "created_at",
        )
        entry.insert(
            self.connection,
            sha256=record.sha256,
            size=record.bytes,
            base=BaseModel(**record.base.model_dump()),
            parents=[Parent(self._ref(p.uid, record.ref), p.role, p.weight) for p in record.parents],
            config=record.config,
            head=record.head,
            recipe=_with_names(record.recipe, names),
            environment=record.environment,
            store=self.store,
            adapter_id=adapter_id,
            n=n,
            run=self._run_of(record),
            uid=record.uid,
            **{column: getattr(record, column) for column in same},
        )
        ref = f"{name}@{number}"
        events.record(
            self.connection, "version.arrived", ref, sha256=record.sha256, source=self.source, uid=record.uid
        )
        self.new.append(ref)
        return ref

    def _taken(self, record: VersionRecord) -> bool:
        """Returns whether the name and number mean, or ever meant, another version here."""
        spelling = versions.spelling(self.connection, record.ref.partition("@")[0])
        if spelling is None:
            return False
        # The log, because a number that was given once is not given again.
        row = self.connection.execute(
            """
            SELECT 1 FROM event
            WHERE subject = ? AND action IN ('version.registered', 'version.arrived')
              AND json_extract(detail, '$.sha256') <> ?
            """,
            (record.ref, record.sha256),
        ).fetchone()
        return spelling != record.ref.partition("@")[0] or row is not None or self._present(record.ref)

    def _present(self, ref: str) -> bool:
        row = self.connection.execute(
            "SELECT 1 FROM version JOIN adapter ON adapter.id = version.adapter_id "
            "WHERE adapter.name || '@' || version.n = ?",
            (ref,),
        ).fetchone()
        return row is not None

    def _ref(self, uid: str, child: str) -> str:
        if uid not in self.refs:
            raise IntegrityError(
                f"{self.source} has {child} but not what it was made from ({uid.partition(' ')[0]}); "
                "send it again from a store that has both"
            )
        return self.refs[uid]

    def _run_of(self, record: VersionRecord) -> str | None:
        if record.run is None:
            return None
        name = self.runs.get(record.run) or runs.by_uid(self.connection, record.run)
        if name is None:
            raise IntegrityError(
                f"{self.source} has {record.ref} but not the run that made it; send it again"
            )
        return name

    def _add_step(self, run: str, record: StepRecord, names: Mapping[str, str]) -> bool:
        """Returns whether the step is now here as it is there."""
        step = Step(
            run,
            record.way,
            record.step,
            record.task,
            {name: composition_from_json(_with_names(a, names)) for name, a in record.answers.items()},
            tuple(_with_names(list(record.versions), names)),
            record.seconds,
            record.detail,
            record.finished_at,
        )
        if steps.arrive(self.connection, step, record.scores_digest, self.store):
            return True
        self.conflicts.append(Conflict(f"{run}/{step.way}/{step.step}", "another step", "one step"))
        return False

    def _add_score(self, run: str, record: ScoreRecord) -> bool:
        """Returns whether the score is new here."""
        score = Score(run=run, **record.model_dump())
        new = steps.arrive_score(self.connection, score)
        if new is None:
            cell = f"{run}/{score.way}/{score.step}/{score.answer}/{score.task}"
            self.conflicts.append(Conflict(cell, "another score", f"{score.value:g}"))
        return bool(new)


def _numbered(adapter: str, number: int | None) -> str:
    return "nothing" if number is None else f"{adapter}@{number}"


def _run(record: RunRecord) -> Run:
    return Run(
        record.name,
        record.config,
        record.seed,
        record.scenario,
        tuple(Task(**task.model_dump()) for task in record.tasks),
        record.status,
        record.started_at,
        record.finished_at,
    )


def _local(connection: sqlite3.Connection, uids: Iterable[str]) -> dict[str, str]:
    """Returns what versions are called here, by uid."""
    rows = connection.execute(
        """
        SELECT version.uid, adapter.name || '@' || version.n AS ref
        FROM version JOIN adapter ON adapter.id = version.adapter_id
        WHERE version.uid IN (SELECT value FROM json_each(?))
        """,
        (json_text(sorted(uids), "uids"),),
    )
    return {row["uid"]: row["ref"] for row in rows}


def _parents_first(records: Mapping[str, VersionRecord], source: str) -> list[str]:
    edges = {uid: [p.uid for p in r.parents if p.uid in records] for uid, r in records.items()}
    try:
        return list(TopologicalSorter(edges).static_order())
    except CycleError as error:
        raise IntegrityError(f"{source} has a version that was made from itself") from error


def _with_names(value: Any, names: Mapping[str, str]) -> Any:
    """Returns JSON with every reference as it is called here."""
    if isinstance(value, dict):
        return {key: _with_names(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_names(item, names) for item in value]
    return names.get(value, value) if isinstance(value, str) else value
