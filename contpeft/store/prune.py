"""Pruning: choosing by policy which versions stay, so that the others can be removed."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from contpeft.errors import UsageError
from contpeft.store import removal
from contpeft.store.find import Metric
from contpeft.store.removal import Removed
from contpeft.store.rows import timestamp
from contpeft.store.tags import KEEP

__all__ = ["Policy", "Pruned", "prune"]


@dataclass(frozen=True)
class Policy:
    """What pruning keeps; a version that any rule keeps stays.

    Attributes:
        last: the newest so many of each adapter.
        best: the so many best of each adapter by ``metric``.
        metric: the metric ``best`` goes by; larger is better unless its tasks say otherwise.
        within: those registered within this time.
        max_bytes: the newest others, as long as all that stays together fits in so many bytes.
    """

    last: int | None = None
    best: int | None = None
    metric: Metric = field(default_factory=lambda: Metric("accuracy"))
    within: timedelta | None = None
    max_bytes: int | None = None

    def __post_init__(self) -> None:
        """Refuses a policy that says nothing, or something negative."""
        seconds = None if self.within is None else self.within.total_seconds()
        rules = (self.last, self.best, seconds, self.max_bytes)
        if all(rule is None for rule in rules):
            raise UsageError("pruning needs a rule for what stays: last, best, within or max_bytes")
        if any(rule is not None and rule < 0 for rule in rules):
            raise UsageError("a rule for pruning cannot be negative")


@dataclass(frozen=True)
class Pruned:
    """What pruning removed, or would.

    Attributes:
        removed: the versions, and the bytes that garbage collection can free now.
        kept: ``name@n`` of every version that stays, with the reason.
    """

    removed: Removed
    kept: Mapping[str, str]


@dataclass(frozen=True)
class _Version:
    id: int
    ref: str
    name: str
    sha256: str
    bytes: int
    created_at: str
    value: float | None


_VERSIONS: Final = """
    SELECT version.id, adapter.name || '@' || version.n AS ref, adapter.name, version.sha256, blob.bytes,
           version.created_at, {value} AS value
    FROM version
    JOIN adapter ON adapter.id = version.adapter_id
    JOIN blob ON blob.sha256 = version.sha256
    ORDER BY version.id DESC
"""
_LOWER_IS_BETTER: Final = """
    SELECT count(*) FROM score JOIN task ON task.run = score.run AND task.name = score.task
    WHERE score.metric = ? AND task.lower_is_better
"""


def prune(
    connection: sqlite3.Connection, policy: Policy, name: str | None, *, everything: bool, dry_run: bool
) -> Pruned:
    """Removes the versions a policy does not keep, in the caller's transaction.

    Raises:
        UsageError: if nothing would be left of an adapter and ``everything`` is not set.
    """
    versions = _versions(connection, policy)
    parents = _parents(connection)
    kept = _Kept(versions, parents)
    for version_id, reason in {**removal.needs(connection), **_tagged(connection)}.items():
        kept.add(version_id, reason)
    for version in versions.values():
        if name not in (None, version.name):
            kept.add(version.id, f"is no version of {name}")
    for version_id, reason in _chosen(connection, versions.values(), policy):
        kept.add(version_id, reason)
    if policy.max_bytes is not None:
        kept.fill(policy.max_bytes)
    gone = [version for version in versions.values() if version.id not in kept.reasons]
    if not everything:
        _refuse_whole_lines(gone, [versions[i] for i in kept.reasons])
    removed = removal.remove_ids(connection, [version.id for version in gone], dry_run=dry_run)
    return Pruned(removed, {versions[i].ref: kept.reasons[i] for i in sorted(kept.reasons)})


class _Kept:
    """The versions that stay, each with what it was made from."""

    def __init__(self, versions: Mapping[int, _Version], parents: Mapping[int, Sequence[int]]) -> None:
        self.reasons: dict[int, str] = {}
        self._versions = versions
        self._parents = parents

    def add(self, version_id: int, reason: str) -> None:
        """Keeps a version and everything it was made from."""
        for missing in self._missing(version_id):
            told = reason if missing == version_id else f"{self._versions[version_id].ref} was made from it"
            self.reasons[missing] = told

    def fill(self, max_bytes: int) -> None:
        """Keeps more versions, newest first, until the next one would not fit."""
        sizes = {self._versions[i].sha256: self._versions[i].bytes for i in self.reasons}
        for version in self._versions.values():
            more = {self._versions[i].sha256: self._versions[i].bytes for i in self._missing(version.id)}
            if sum({**sizes, **more}.values()) > max_bytes:
                return
            sizes |= more
            self.add(version.id, f"fits in {max_bytes} bytes")

    def _missing(self, version_id: int) -> list[int]:
        """Returns a version and those it was made from, as far as they are not kept yet."""
        found: dict[int, None] = {}
        waiting = [version_id]
        while waiting:
            here = waiting.pop()
            if here not in self.reasons and here not in found:
                found[here] = None
                waiting += self._parents.get(here, ())
        return list(found)


def _versions(connection: sqlite3.Connection, policy: Policy) -> dict[int, _Version]:
    """Returns every version by row id, newest first, with its value by the policy's metric."""
    value, values = policy.metric.sql("task_aware") if policy.best is not None else ("NULL", [])
    rows = connection.execute(_VERSIONS.format(value=value), values)
    return {row["id"]: _Version(*row) for row in rows}


def _parents(connection: sqlite3.Connection) -> dict[int, list[int]]:
    found: dict[int, list[int]] = defaultdict(list)
    for row in connection.execute("SELECT version_id, parent_id FROM parent"):
        found[row["version_id"]].append(row["parent_id"])
    return found


def _tagged(connection: sqlite3.Connection) -> dict[int, str]:
    rows = connection.execute("SELECT version_id FROM tag WHERE key = ?", (KEEP,))
    return {row["version_id"]: f"has the tag {KEEP}" for row in rows}


def _chosen(
    connection: sqlite3.Connection, versions: Collection[_Version], policy: Policy
) -> Iterator[tuple[int, str]]:
    """Yields row id and reason of the versions that the rules keep, but for the rule on bytes."""
    lines: dict[str, list[_Version]] = defaultdict(list)
    for version in versions:
        lines[version.name].append(version)
    for line in lines.values():
        yield from ((v.id, f"is one of the last {policy.last}") for v in line[: policy.last or 0])
        yield from ((v.id, f"is one of the best {policy.best}") for v in _best(connection, line, policy))
    if policy.within is not None:
        since = timestamp(datetime.now(UTC) - policy.within)
        yield from ((v.id, "is young enough") for v in versions if v.created_at >= since)


def _best(connection: sqlite3.Connection, line: Sequence[_Version], policy: Policy) -> list[_Version]:
    """Returns the best versions of a line; of equal ones the newer is better."""
    measured = [(version.value, version) for version in line if version.value is not None]
    lower = connection.execute(_LOWER_IS_BETTER, (policy.metric.name,)).fetchone()[0] > 0
    measured.sort(key=lambda pair: pair[0], reverse=not lower)
    return [version for _, version in measured[: policy.best or 0]]


def _refuse_whole_lines(gone: Iterable[_Version], kept: Iterable[_Version]) -> None:
    whole = sorted({version.name for version in gone} - {version.name for version in kept})
    if whole:
        raise UsageError(
            f"nothing would be left of {', '.join(whole)}; allow that with everything=True (--everything), "
            "or keep more"
        )
