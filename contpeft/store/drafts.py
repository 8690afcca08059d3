"""A version on its way into the catalogue: checked, and inserted in the caller's transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from contpeft.digest import json_digest
from contpeft.errors import SpecError, suggest
from contpeft.spec import AdapterState, BaseModel, Parent, check_name
from contpeft.store import entry, events, runs, versions
from contpeft.store.environment import environment
from contpeft.store.rows import check_finite, json_text, now
from contpeft.store.tensors import Payload

__all__ = ["Draft", "existing", "insert", "pin"]

ORIGINS: Final = ("trained", "fused", "imported")
ROLES: Final = ("continued", "fused", "distilled", "frozen")


@dataclass(frozen=True)
class Draft:
    """What :meth:`AdapterStore.register` was asked to store, tensors aside."""

    name: str
    state: AdapterState
    base: BaseModel
    origin: str
    parents: tuple[Parent, ...]
    recipe: Mapping[str, Any] | None
    run: str | None
    task: str | None
    data: str | None
    seconds: float | None

    def __post_init__(self) -> None:
        """Checks what can be checked without the catalogue."""
        check_name(self.name)
        _check_choice(self.origin, ORIGINS, f"origin of {self.name!r}")
        for key, value in self.state.config.items():
            json_text(value, f"config key {key!r} of adapter {self.name!r}")
        json_text(self.recipe, f"recipe of adapter {self.name!r}")
        json_text(self.head, f"head of adapter {self.name!r}")
        check_finite(self.seconds, f"seconds of {self.name!r}")
        if self.origin == "fused" and self.recipe is None:
            raise SpecError(f"adapter {self.name!r} is fused but has no recipe; say how it was made")
        for parent in self.parents:
            _check_choice(parent.role, ROLES, f"role of parent {parent.ref!r}")
            check_finite(parent.weight, f"weight of parent {parent.ref!r}")

    @property
    def head(self) -> dict[str, Any] | None:
        """The head as JSON."""
        return self.state.head.to_json() if self.state.head else None

    def identity(self, payload: Payload) -> str:
        """Returns the digest of what makes two registrations the same one."""
        return json_digest(
            {
                "kind": self.state.kind,
                "tensors": payload.fingerprint,
                "config": dict(self.state.config),
                "head": self.head,
                "base": self.base.fingerprint,
                "parents": [asdict(parent) for parent in self.parents],
                "run": self.run,
                "task": self.task,
            }
        )


def pin(connection: sqlite3.Connection, draft: Draft, store: str) -> Draft:
    """Returns the draft with parents spelled ``name@n``, checked against the catalogue.

    Raises:
        NotFoundError: if a parent or the run does not exist.
        SpecError: if the name differs from an existing one only in case, or a parent is named
            twice in one role.
    """
    known = versions.spelling(connection, draft.name)
    if known not in (None, draft.name):
        raise SpecError(f"adapter name {draft.name!r} differs from {known!r} only in case; use {known!r}")
    if draft.run is not None:
        runs.get(connection, draft.run, store)
    parents = tuple(
        replace(parent, ref=versions.find(connection, parent.ref, store)[1]) for parent in draft.parents
    )
    edges = [(parent.ref, parent.role) for parent in parents]
    twice = next((edge for edge in edges if edges.count(edge) > 1), None)
    if twice:
        raise SpecError(f"parent {twice[0]!r} is named twice as {twice[1]!r}; name it once")
    return replace(draft, parents=parents)


def existing(connection: sqlite3.Connection, draft: Draft, payload: Payload) -> int | None:
    """Returns the row id of the version this draft would repeat, or None."""
    row = connection.execute(
        """
        SELECT version.id FROM version JOIN adapter ON adapter.id = version.adapter_id
        WHERE adapter.name = ? AND version.identity = ?
        """,
        (draft.name, draft.identity(payload)),
    ).fetchone()
    return row["id"] if row else None


def insert(connection: sqlite3.Connection, draft: Draft, payload: Payload, store: str) -> int:
    """Inserts the version with the next number of its adapter; returns the row id."""
    adapter_id, n = entry.place(connection, draft.name)
    identity, created_at = draft.identity(payload), now()
    version_id = entry.insert(
        connection,
        sha256=payload.sha256,
        size=len(payload.data),
        base=draft.base,
        parents=draft.parents,
        config=draft.state.config,
        head=draft.head,
        recipe=draft.recipe,
        environment=environment(),
        store=store,
        adapter_id=adapter_id,
        n=n,
        kind=draft.state.kind,
        fingerprint=payload.fingerprint,
        parameters=payload.parameters,
        origin=draft.origin,
        run=draft.run,
        task=draft.task,
        data=draft.data,
        seconds=draft.seconds,
        identity=identity,
        created_at=created_at,
        uid=f"{draft.name}@{n} {created_at} {identity}",
    )
    events.record(connection, "version.registered", f"{draft.name}@{n}", sha256=payload.sha256)
    return version_id


def _check_choice(value: str, choices: tuple[str, ...], what: str) -> None:
    if value not in choices:
        raise SpecError(f"{what} is {value!r}{suggest(value, choices)}")
