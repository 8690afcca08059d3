"""Lineage: what a version was made from, and what was made from it."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["Branch", "branches"]


@dataclass(frozen=True)
class Branch:
    """One line of a tree that is written depth first.

    Attributes:
        ref: ``name@n``.
        depth: how far below the top, which is 0.
        role: what the older one was to the newer one of this and the line it hangs from
            (``"continued"``, ``"fused"``, ``"distilled"``, ``"frozen"``); None at the top.
        weight: the coefficient in a fusion, or None.
        repeated: whether what hangs below it was written further up.
    """

    ref: str
    depth: int
    role: str | None
    weight: float | None
    repeated: bool


_Edge = tuple[int, str, float | None]

# The edges in reach of the tops, each as from, to, role and weight. UNION visits a version once.
_EDGES: Final = """
    WITH RECURSIVE reached (id) AS (
        SELECT value FROM json_each(:tops)
        UNION
        SELECT parent.{to} FROM parent JOIN reached ON parent.{start} = reached.id
    )
    SELECT DISTINCT parent.{start} AS start, parent.{to} AS "to", parent.role, parent.weight
    FROM parent JOIN reached ON parent.{start} = reached.id
    ORDER BY {order}
"""
_DOWN: Final = {"start": "parent_id", "to": "version_id", "order": "parent.version_id, parent.position"}
_UP: Final = {"start": "version_id", "to": "parent_id", "order": "parent.version_id, parent.position"}


def branches(connection: sqlite3.Connection, top: int | None, *, parents: bool) -> list[Branch]:
    """Returns the tree below a version, or the trees below all versions without parents.

    Args:
        connection: the catalogue.
        top: row id of the version; None for all that have no parents.
        parents: whether what hangs from a version is what it was made from.
    """
    tops = [top] if top is not None else _roots(connection)
    edges: dict[int, list[_Edge]] = defaultdict(list)
    for row in connection.execute(_EDGES.format(**(_UP if parents else _DOWN)), {"tops": str(tops)}):
        edges[row["start"]].append((row["to"], row["role"], row["weight"]))
    return _walk(tops, edges, _refs(connection, {*tops, *(to for each in edges.values() for to, *_ in each)}))


def _roots(connection: sqlite3.Connection) -> list[int]:
    rows = connection.execute(
        "SELECT id FROM version WHERE id NOT IN (SELECT version_id FROM parent) ORDER BY id"
    )
    return [row["id"] for row in rows]


def _walk(tops: Sequence[int], edges: Mapping[int, list[_Edge]], refs: Mapping[int, str]) -> list[Branch]:
    """Returns the lines depth first; a line of thousands of versions is no recursion."""
    lines: list[Branch] = []
    written: set[int] = set()
    stack: list[tuple[int, int, str | None, float | None]] = [(top, 0, None, None) for top in reversed(tops)]
    while stack:
        here, depth, role, weight = stack.pop()
        below = edges.get(here, [])
        repeated = here in written and bool(below)
        lines.append(Branch(refs[here], depth, role, weight, repeated))
        if not repeated:
            written.add(here)
            stack += [(to, depth + 1, role, weight) for to, role, weight in reversed(below)]
    return lines


def _refs(connection: sqlite3.Connection, ids: set[int]) -> dict[int, str]:
    rows = connection.execute(
        """
        SELECT version.id, adapter.name || '@' || version.n AS ref
        FROM version JOIN adapter ON adapter.id = version.adapter_id
        WHERE version.id IN (SELECT value FROM json_each(?))
        """,
        (str(sorted(ids)),),
    )
    return {row["id"]: row["ref"] for row in rows}
