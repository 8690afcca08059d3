"""Runs: one experiment on one stream of tasks, with the configuration it may never change."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, get_args

from contpeft.digest import canonical_json, json_digest
from contpeft.errors import ConfigError, NotFoundError, SpecError, suggest
from contpeft.spec import Task
from contpeft.store import events
from contpeft.store.rows import MISSING, differences, insert_row, json_text, now, parse_json

__all__ = ["Run", "Status", "arrive", "by_uid", "finish", "get", "select", "start"]

Status = Literal["finished", "failed", "interrupted"]

_STATUSES: Final = get_args(Status)


@dataclass(frozen=True)
class Run:
    """One experiment.

    Attributes:
        name: what scores, steps and versions call it by.
        config: its whole configuration, as JSON.
        seed: its seed.
        scenario: what may be known about a row's task (``"class-incremental"``, ...).
        tasks: the stream, in order.
        status: ``"running"``, ``"finished"``, ``"failed"`` or ``"interrupted"``.
        started_at: UTC, ISO 8601.
        finished_at: when it last stopped, or None while it runs.
    """

    name: str
    config: Mapping[str, Any]
    seed: int
    scenario: str
    tasks: tuple[Task, ...]
    status: str
    started_at: str
    finished_at: str | None

    def content(self) -> dict[str, Any]:
        """Returns what makes it this run: all that a resumed one must have in common with it."""
        return _content(self.config, self.seed, self.tasks, self.scenario)

    def to_json(self) -> dict[str, Any]:
        """Returns the run as JSON."""
        return {
            "name": self.name,
            **self.content(),
            "status": self.status,
            "started_at": self.started_at,
            "finished_at": self.finished_at,
        }


def start(
    connection: sqlite3.Connection,
    name: str,
    config: Mapping[str, Any],
    seed: int,
    tasks: tuple[Task, ...],
    scenario: str,
) -> None:
    """Writes a new run, or sets an equal one that had stopped early to running again.

    Raises:
        ConfigError: if a run of that name has another configuration.
        SpecError: if the configuration has no JSON form, or two tasks have one name.
    """
    content = json.loads(json_text(_content(config, seed, tasks, scenario), f"config of run {name!r}"))
    _check_task_names(name, tasks)
    known = _select(connection, "WHERE name = ?", name)
    if not known:
        _insert(connection, name, content)
        return
    _check_same(name, known[0].content(), content)
    if known[0].status in ("failed", "interrupted"):
        connection.execute("UPDATE run SET status = 'running', finished_at = NULL WHERE name = ?", (name,))
        events.record(connection, "run.resumed", name)


def finish(connection: sqlite3.Connection, name: str, status: Status, store: str) -> None:
    """Writes how a run ended."""
    if status not in _STATUSES:
        raise SpecError(f"a run cannot end as {status!r}{suggest(status, _STATUSES)}")
    if get(connection, name, store).status == status:
        return
    connection.execute("UPDATE run SET status = ?, finished_at = ? WHERE name = ?", (status, now(), name))
    events.record(connection, f"run.{status}", name)


def arrive(connection: sqlite3.Connection, run: Run, uid: str) -> str | None:
    """Writes a run another store began, or how it ended there meanwhile.

    Its own name may be that of another run here; then its identity makes it another name.

    Returns:
        What it is called here, or None when it is here with another configuration.
    """
    here = by_uid(connection, uid)
    if here is None:
        _check_task_names(run.name, run.tasks)
        taken = bool(_select(connection, "WHERE name = ?", run.name))
        name = f"{run.name[:119]}.{json_digest(uid)[:8]}" if taken else run.name
        status = "interrupted" if run.status == "running" else run.status
        ended = {"status": status, "finished_at": run.finished_at or now()}
        _insert(connection, name, run.content(), uid=uid, started_at=run.started_at, **ended)
        return name
    known = _select(connection, "WHERE name = ?", here)[0]
    if canonical_json(known.content()) != canonical_json(run.content()):
        return None
    if known.status in ("failed", "interrupted") and run.status == "finished":
        connection.execute(
            "UPDATE run SET status = ?, finished_at = ? WHERE uid = ?", (run.status, run.finished_at, uid)
        )
    return known.name


def by_uid(connection: sqlite3.Connection, uid: str) -> str | None:
    """Returns what a run is called here, or None when it is not here."""
    row = connection.execute("SELECT name FROM run WHERE uid = ?", (uid,)).fetchone()
    return row["name"] if row else None


def get(connection: sqlite3.Connection, name: str, store: str) -> Run:
    """Returns the run.

    Raises:
        NotFoundError: if there is none of that name.
    """
    found = _select(connection, "WHERE name = ?", name)
    if not found:
        known = [row["name"] for row in connection.execute("SELECT name FROM run")]
        raise NotFoundError(f"no run {name!r} in {store}{suggest(name, known)}")
    return found[0]


def select(connection: sqlite3.Connection) -> list[Run]:
    """Returns all runs, oldest first."""
    return _select(connection, "ORDER BY started_at, rowid")


def _select(connection: sqlite3.Connection, clause: str, *values: str) -> list[Run]:
    rows = connection.execute(f"SELECT * FROM run {clause}", values).fetchall()
    return [
        Run(
            name=row["name"],
            config=parse_json(row["config"]),
            seed=row["seed"],
            scenario=row["scenario"],
            tasks=_tasks(connection, row["name"]),
            status=row["status"],
            started_at=row["started_at"],
            finished_at=row["finished_at"],
        )
        for row in rows
    ]


def _tasks(connection: sqlite3.Connection, run: str) -> tuple[Task, ...]:
    rows = connection.execute("SELECT * FROM task WHERE run = ? ORDER BY position", (run,))
    return tuple(
        Task(row["name"], tuple(parse_json(row["classes"])), row["metric"], bool(row["lower_is_better"]))
        for row in rows
    )


def _content(config: Mapping[str, Any], seed: int, tasks: tuple[Task, ...], scenario: str) -> dict[str, Any]:
    return {
        "config": dict(config),
        "seed": seed,
        "scenario": scenario,
        "tasks": [{**asdict(task), "classes": list(task.classes)} for task in tasks],
    }


def _insert(connection: sqlite3.Connection, name: str, content: Mapping[str, Any], **known: Any) -> None:
    """Inserts a run and its tasks; ``known`` are columns that another store has filled."""
    started_at = now()
    columns = {"uid": f"{name} {started_at}", "started_at": started_at, **known}
    insert_row(
        connection,
        "run",
        name=name,
        config=canonical_json(content["config"]),
        seed=content["seed"],
        scenario=content["scenario"],
        **columns,
    )
    for position, task in enumerate(content["tasks"]):
        classes = canonical_json(task["classes"])
        insert_row(connection, "task", run=name, position=position, **{**task, "classes": classes})
    events.record(connection, "run.arrived" if known else "run.started", name)


def _check_task_names(name: str, tasks: tuple[Task, ...]) -> None:
    seen: set[str] = set()
    for task in tasks:
        if task.name in seen:
            raise SpecError(f"run {name!r} has two tasks called {task.name!r}; give each its own name")
        seen.add(task.name)


def _check_same(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Raises for the first key in which a run's content differs from the stored one."""
    # The seed first: another one changes much of the rest.
    told = sorted(differences(old, new), key=lambda difference: difference[0] != "seed")
    for key, before, after in told:
        raise ConfigError(
            f"run {name!r} exists with another configuration: {key.removeprefix('config.')} was "
            f"{_show(before)}, is now {_show(after)}; give this experiment another 'name:'"
        )


def _show(value: Any) -> str:
    if value is MISSING:
        return "not set"
    text = canonical_json(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
