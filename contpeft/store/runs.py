"""Runs: one experiment on one stream of tasks, with the configuration it may never change."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, get_args

from contpeft.digest import canonical_json
from contpeft.errors import ConfigError, NotFoundError, SpecError, suggest
from contpeft.spec import Task
from contpeft.store import events
from contpeft.store.rows import MISSING, differences, json_text, now, parse_json

__all__ = ["Run", "Status", "finish", "get", "select", "start"]

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


def _insert(connection: sqlite3.Connection, name: str, content: Mapping[str, Any]) -> None:
    connection.execute(
        "INSERT INTO run (name, config, seed, scenario) VALUES (?, ?, ?, ?)",
        (name, canonical_json(content["config"]), content["seed"], content["scenario"]),
    )
    connection.executemany(
        "INSERT INTO task (run, position, name, classes, metric, lower_is_better) VALUES (?, ?, ?, ?, ?, ?)",
        (
            (
                name,
                position,
                task["name"],
                canonical_json(task["classes"]),
                task["metric"],
                task["lower_is_better"],
            )
            for position, task in enumerate(content["tasks"])
        ),
    )
    events.record(connection, "run.started", name)


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
