"""Finding versions: from what was asked to SQL with bound values."""

from __future__ import annotations

import math
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

from contpeft.digest import canonical_json
from contpeft.errors import UsageError, suggest
from contpeft.spec import AdapterRef, Version
from contpeft.store import versions

__all__ = ["Filter", "Metric", "Sort", "select"]

Sort = Literal["created", "name", "bytes", "metric"]

_METRIC: Final = re.compile(
    r"(?P<name>[^@<>=!\s]+)(@(?P<task>[^<>=!]+?))?(\s*(?P<sign>>=|<=|>|<|=)\s*(?P<value>[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[-+]?[0-9]+)?))?\Z"
)
_SIGNS: Final = ("", ">=", "<=", ">", "<", "=")
_COLUMNS: Final = {
    "name": "adapter.name",
    "n": "version.n",
    "kind": "version.kind",
    "origin": "version.origin",
    "run": "version.run",
    "task": "version.task",
    "data": "version.data",
    "base": "base_model.name",
    "sha256": "version.sha256",
    "fingerprint": "version.fingerprint",
}
_HALVES: Final = ("step_score", "fit_score")
_KEYS: Final = {"created": "version.id", "name": "adapter.name", "bytes": "blob.bytes"}


@dataclass(frozen=True)
class Metric:
    """What a version scored: the mean over the tasks learned when it was made, or one task's score.

    Attributes:
        name: the metric.
        task: only the score on this task.
        sign: ``>=``, ``<=``, ``>``, ``<`` or ``=``; empty when only to be measured at all.
        value: what to compare with.
    """

    name: str
    task: str | None = None
    sign: str = ""
    value: float = 0.0

    def __post_init__(self) -> None:
        """Refuses what is no comparison with a number."""
        if self.sign not in _SIGNS or not math.isfinite(self.value):
            raise UsageError(f"metric {self.name!r} cannot be compared by {self.sign!r} with {self.value}")

    @classmethod
    def parse(cls, text: str) -> Metric:
        """Returns the metric ``text`` spells: ``accuracy``, ``accuracy>=0.9``, ``accuracy@mail>=0.9``.

        Raises:
            UsageError: if it spells none.
        """
        match = _METRIC.match(text.strip())
        if match is None:
            raise UsageError(f"metric {text!r} is not understood; write accuracy>=0.9 or accuracy@task>=0.9")
        try:
            value = float(match["value"] or 0.0)
        except ValueError:
            raise UsageError(
                f"metric {text!r} compares with {match['value']!r}, which is no number"
            ) from None
        return cls(match["name"], match["task"], match["sign"] or "", value)

    def sql(self, protocol: str) -> tuple[str, list[Any]]:
        """Returns the expression for a version's score and the values it needs."""
        # Asked of both halves of version_score: SQLite finds a version in a union by reading all of it.
        where = "version_id = version.id AND metric = ? AND protocol = ? AND "
        where += "task = ?" if self.task else "learned"
        halves = " UNION ALL ".join(f"SELECT value FROM {view} WHERE {where}" for view in _HALVES)
        values = [self.name, protocol, *([self.task] if self.task else [])]
        return f"(SELECT avg(value) FROM ({halves}))", values * len(_HALVES)

    def condition(self, protocol: str) -> tuple[Any, ...]:
        """Returns the condition on a version's score, followed by its values."""
        expression, values = self.sql(protocol)
        if not self.sign:
            return f"{expression} IS NOT NULL", *values
        return f"{expression} {self.sign} ?", *values, self.value


@dataclass(frozen=True)
class Filter:
    """What versions are asked for; see :meth:`AdapterStore.versions`."""

    equal: Mapping[str, Any] = field(default_factory=dict)
    tags: Sequence[str] = ()
    alias: str | None = None
    since: str | None = None
    until: str | None = None
    metrics: Sequence[Metric] = ()
    protocol: str = "task_aware"
    sort: Sort = "created"
    reverse: bool = False

    def conditions(self) -> Iterator[tuple[Any, ...]]:
        """Yields SQL conditions, each followed by its values."""
        for key, value in self.equal.items():
            if value is not None:
                yield _equal(key, value)
        for tag in self.tags:
            yield _tagged(tag)
        if self.alias is not None:
            yield "version.id IN (SELECT version_id FROM alias WHERE name = ? COLLATE BINARY)", self.alias
        if self.since is not None:
            yield "version.created_at >= ?", self.since
        if self.until is not None:
            yield "version.created_at < ?", self.until
        yield from (metric.condition(self.protocol) for metric in self.metrics)

    def order(self) -> tuple[str, list[Any], bool]:
        """Returns the sort key, its values, and whether it descends."""
        if self.sort not in get_args(Sort):
            raise UsageError(f"cannot sort by {self.sort!r}{suggest(self.sort, get_args(Sort))}")
        if self.sort != "metric":
            return _KEYS[self.sort], [], (self.sort != "name") != self.reverse
        if not self.metrics:
            raise UsageError("sorting by metric needs a metric; give one (accuracy, or accuracy>=0.9)")
        key, values = self.metrics[0].sql(self.protocol)
        return key, values, not self.reverse


def select(
    connection: sqlite3.Connection,
    wanted: Filter,
    store: str,
    *,
    limit: int | None,
    before: str | AdapterRef | None,
) -> list[Version]:
    """Returns the versions asked for, in the order asked for, from the one after ``before`` on."""
    key, values, descends = wanted.order()
    where = list(wanted.conditions())
    if before is not None:
        last, _ = versions.find(connection, before, store)
        one = f"SELECT {key} {versions.FROM} WHERE version.id = ?"
        where.append(
            (f"({key}, version.id) {'<' if descends else '>'} (({one}), ?)", *values, *values, last, last)
        )
    direction = "DESC" if descends else "ASC"
    order = (f"ORDER BY {key} {direction}, version.id {direction}", *values)
    return versions.select(connection, where, limit, order)


def _equal(key: str, value: Any) -> tuple[Any, ...]:
    if key in _COLUMNS:
        return f"{_COLUMNS[key]} = ? COLLATE BINARY", value
    scope, _, option = key.partition(".")
    if scope != "config" or not option:
        raise UsageError(f"cannot compare {key!r}{suggest(key, [*_COLUMNS, 'config.KEY'])}")
    return "version.config -> ? = ?", f'$."{option}"', canonical_json(value)


def _tagged(tag: str) -> tuple[Any, ...]:
    key, equals, value = tag.partition("=")
    if equals:
        return "version.id IN (SELECT version_id FROM tag WHERE key = ? AND value = ?)", key, value
    return "version.id IN (SELECT version_id FROM tag WHERE key = ?)", key
