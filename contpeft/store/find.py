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
_FEW: Final = 1000
_RANKED: Final = versions.FROM.replace(
    "FROM version", "FROM version_metric AS ranked CROSS JOIN version ON version.id = ranked.version_id", 1
)
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
        if self.task is None:
            where = "version_id = version.id AND metric = ? AND protocol = ?"
            return f"(SELECT value FROM version_metric WHERE {where})", [self.name, protocol]
        # Asked of both halves of version_score: SQLite finds a version in a union by reading all of it.
        where = "version_id = version.id AND metric = ? AND protocol = ? AND task = ?"
        halves = " UNION ALL ".join(f"SELECT value FROM {view} WHERE {where}" for view in _HALVES)
        return f"(SELECT avg(value) FROM ({halves}))", [self.name, protocol, self.task] * len(_HALVES)

    def condition(self, protocol: str) -> tuple[Any, ...]:
        """Returns the condition on a version's score, followed by its values."""
        expression, values = self.sql(protocol)
        if not self.sign:
            return f"{expression} IS NOT NULL", *values
        return f"{expression} {self.sign} ?", *values, self.value

    def is_rare(self, connection: sqlite3.Connection, protocol: str) -> bool:
        """Returns whether so few versions meet it that looking each of them up is quickest."""
        if self.task is not None:
            return False
        condition, values = self._indexed(protocol)
        row = connection.execute(
            f"SELECT count(*) FROM (SELECT 1 FROM version_metric WHERE {condition} LIMIT {_FEW})", values
        )
        return bool(row.fetchone()[0] < _FEW)

    def lookup(self, protocol: str) -> tuple[Any, ...]:
        """Returns :meth:`condition` as a search in the index of scores."""
        condition, values = self._indexed(protocol)
        return f"version.id IN (SELECT version_id FROM version_metric WHERE {condition})", *values

    def _indexed(self, protocol: str) -> tuple[str, list[Any]]:
        values = [self.name, protocol, *([self.value] if self.sign else [])]
        return "metric = ? AND protocol = ?" + (f" AND value {self.sign} ?" if self.sign else ""), values


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

    def order(self) -> Order:
        """Returns the order asked for."""
        if self.sort not in get_args(Sort):
            raise UsageError(f"cannot sort by {self.sort!r}{suggest(self.sort, get_args(Sort))}")
        if self.sort != "metric":
            return Order(_KEYS[self.sort], descends=(self.sort != "name") != self.reverse)
        if not self.metrics:
            raise UsageError("sorting by metric needs a metric; give one (accuracy, or accuracy>=0.9)")
        first = self.metrics[0]
        if first.task is None:
            # Read from the index of scores in its order: the first page costs no more than a page.
            where = ("ranked.metric = ? AND ranked.protocol = ?", first.name, self.protocol)
            met = ((f"ranked.value {first.sign} ?", first.value),) if first.sign else ()
            return Order("ranked.value", _RANKED, (where, *met), descends=not self.reverse)
        key, values = first.sql(self.protocol)
        return Order(key, values=tuple(values), descends=not self.reverse)


@dataclass(frozen=True)
class Order:
    """An order of versions.

    Attributes:
        key: SQL to sort by.
        source: the tables it is read from.
        conditions: what holds for them, each with its values.
        values: those of the ``?`` in ``key``.
        descends: whether it goes down.
    """

    key: str
    source: str = versions.FROM
    conditions: tuple[tuple[Any, ...], ...] = ()
    values: tuple[Any, ...] = ()
    descends: bool = True


def select(
    connection: sqlite3.Connection,
    wanted: Filter,
    store: str,
    *,
    limit: int | None,
    before: str | AdapterRef | None,
) -> list[Version]:
    """Returns the versions asked for, in the order asked for, from the one after ``before`` on."""
    order = wanted.order()
    key, values = order.key, order.values
    where = [*wanted.conditions(), *order.conditions]
    for metric in wanted.metrics:
        rare = metric.is_rare(connection, wanted.protocol)
        where.append(metric.lookup(wanted.protocol) if rare else metric.condition(wanted.protocol))
    if before is not None:
        last, _ = versions.find(connection, before, store)
        clause = " AND ".join(["version.id = ?", *(condition for condition, *_ in order.conditions)])
        own = [last, *(value for _, *given in order.conditions for value in given)]
        one = f"SELECT {key} {order.source} WHERE {clause}"
        sign = "<" if order.descends else ">"
        where.append((f"({key}, version.id) {sign} (({one}), ?)", *values, *values, *own, last))
    direction = "DESC" if order.descends else "ASC"
    last_key = "ranked.version_id" if order.source == _RANKED else "version.id"
    by = (f"ORDER BY {key} {direction}, {last_key} {direction}", *values)
    return versions.select(connection, where, limit, by, order.source)


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
