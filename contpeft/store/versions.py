"""Adapters and their versions: from references to rows, from rows to values."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, Final

from contpeft.digest import canonical_json
from contpeft.errors import NotFoundError, SpecError, suggest
from contpeft.spec import AdapterRef, BaseModel, HeadSpec, Parent, Version
from contpeft.store.rows import parse_json

__all__ = [
    "FROM",
    "adapter_id",
    "aliases",
    "among",
    "children",
    "find",
    "holding",
    "names",
    "refs_to_ids",
    "select",
    "spelling",
]

FROM: Final = """
    FROM version
    JOIN adapter ON adapter.id = version.adapter_id
    JOIN base_model ON base_model.id = version.base_id
    JOIN blob ON blob.sha256 = version.sha256
"""
_SELECT: Final = """
    SELECT version.*, adapter.name, adapter.name || '@' || version.n AS ref, blob.bytes,
           base_model.name AS base_name, base_model.fingerprint AS base_fingerprint,
           base_model.parameters AS base_parameters
"""
_ALL: Final = """
    SELECT version.id, adapter.name, version.n, adapter.name || '@' || version.n AS ref
    FROM version JOIN adapter ON adapter.id = version.adapter_id
"""
# The order of CROSS JOIN is kept: from each reference by two indexes to its version.
_ASKED: Final = """
    SELECT version.id, adapter.name, version.n, asked.value AS ref
    FROM json_each(?) AS asked
    CROSS JOIN adapter ON adapter.name = substr(asked.value, 1, instr(asked.value, '@') - 1)
    CROSS JOIN version ON version.adapter_id = adapter.id
           AND version.n = CAST(substr(asked.value, instr(asked.value, '@') + 1) AS INTEGER)
    WHERE asked.value = adapter.name || '@' || version.n
"""
_NEWEST_FIRST: Final = ("ORDER BY version.id DESC",)
_PARENTS: Final = """
    SELECT parent.version_id, adapter.name || '@' || version.n AS ref, parent.role, parent.weight
    FROM parent
    JOIN version ON version.id = parent.parent_id
    JOIN adapter ON adapter.id = version.adapter_id
    WHERE parent.version_id IN (SELECT value FROM json_each(?))
    ORDER BY parent.version_id, parent.position
"""


def find(connection: sqlite3.Connection, ref: str | AdapterRef, store: str) -> tuple[int, str]:
    """Returns the row id and the ``name@n`` that ``ref`` stands for.

    Args:
        connection: the catalogue.
        ref: a reference.
        store: the store's folder, for messages.

    Raises:
        SpecError: if ``ref`` is no reference, or a digest that several versions share.
        NotFoundError: if there is no such adapter or version.
    """
    parsed = AdapterRef.parse(ref) if isinstance(ref, str) else ref
    if not parsed.name:
        return _find_digest(connection, str(parsed.selector), store)
    found = adapter_id(connection, parsed.name, store)
    if isinstance(parsed.selector, str) and parsed.selector != "latest":
        return _find_alias(connection, found, parsed, store)
    return _find_number(connection, found, parsed, store)


def get(connection: sqlite3.Connection, ref: str | AdapterRef, store: str) -> Version:
    """Returns the catalogue entry of the version that ``ref`` stands for; raises what :func:`find` does."""
    found, _ = find(connection, ref, store)
    return select(connection, [("version.id = ?", found)])[0]


def adapter_id(connection: sqlite3.Connection, name: str, store: str) -> int:
    """Returns the row id of the adapter called ``name``.

    Raises:
        NotFoundError: if there is none.
    """
    row = connection.execute("SELECT id FROM adapter WHERE name = ? COLLATE BINARY", (name,)).fetchone()
    if row is None:
        raise NotFoundError(f"no adapter {name!r} in {store}{suggest(name, names(connection))}")
    return int(row["id"])


def aliases(connection: sqlite3.Connection, adapter_id: int) -> list[str]:
    """Returns the aliases of an adapter, sorted."""
    rows = connection.execute("SELECT name FROM alias WHERE adapter_id = ? ORDER BY name", (adapter_id,))
    return [row["name"] for row in rows]


def refs_to_ids(connection: sqlite3.Connection, refs: Iterable[str], store: str) -> dict[str, int]:
    """Returns the row id of each reference, in order, spelled ``name@n``.

    Raises:
        SpecError: if a reference does not name one version for good.
        NotFoundError: if there is no such version.
    """
    ids: dict[str, int] = {}
    for ref in refs:
        found, exact = find(connection, ref, store)
        if exact != ref:
            raise SpecError(f"reference {ref!r} may come to mean another version; write {exact!r}")
        ids[exact] = found
    return ids


def select(
    connection: sqlite3.Connection,
    where: Sequence[tuple[Any, ...]] = (),
    limit: int | None = None,
    order: tuple[Any, ...] = _NEWEST_FIRST,
    source: str = FROM,
) -> list[Version]:
    """Returns the versions that meet every condition.

    Args:
        connection: the catalogue.
        where: SQL conditions, each followed by the values of its ``?``.
        limit: at most so many.
        order: SQL order, followed by the values of its ``?``.
        source: SQL tables, those of :data:`FROM` among them.
    """
    clause = "WHERE " + " AND ".join(condition for condition, *_ in where) if where else ""
    values = [value for _, *values in (*where, order) for value in values]
    rows = connection.execute(
        f"{_SELECT} {source} {clause} {order[0]} LIMIT ?", [*values, -1 if limit is None else limit]
    ).fetchall()
    parents = _parents(connection, [row["id"] for row in rows])
    return [_version(row, tuple(parents.get(row["id"], ()))) for row in rows]


def among(refs: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Returns a query for ``id``, ``name``, ``n`` and ``ref`` of versions, and the values of its ``?``.

    Args:
        refs: the versions, spelled ``name@n``; all there are when empty.
    """
    return (_ASKED, (canonical_json(list(dict.fromkeys(refs))),)) if refs else (_ALL, ())


def names(connection: sqlite3.Connection) -> list[str]:
    """Returns the names of all adapters, sorted."""
    return [row["name"] for row in connection.execute("SELECT name FROM adapter ORDER BY name")]


def spelling(connection: sqlite3.Connection, name: str) -> str | None:
    """Returns how the adapter called ``name`` in any case is spelled, or None when there is none."""
    row = connection.execute("SELECT name FROM adapter WHERE name = ?", (name,)).fetchone()
    return row["name"] if row else None


def children(connection: sqlite3.Connection, version_id: int) -> list[str]:
    """Returns the ``name@n`` of the versions made from this one, oldest first."""
    rows = connection.execute(
        """
        SELECT DISTINCT version.id, adapter.name || '@' || version.n AS ref
        FROM parent
        JOIN version ON version.id = parent.version_id
        JOIN adapter ON adapter.id = version.adapter_id
        WHERE parent.parent_id = ?
        ORDER BY version.id
        """,
        (version_id,),
    )
    return [row["ref"] for row in rows]


def holding(connection: sqlite3.Connection, digests: Iterable[str]) -> list[str]:
    """Returns the ``name@n`` of the versions whose files these are, oldest first."""
    rows = connection.execute(
        """
        SELECT adapter.name || '@' || version.n AS ref
        FROM version JOIN adapter ON adapter.id = version.adapter_id
        WHERE version.sha256 IN (SELECT value FROM json_each(?)) ORDER BY version.id
        """,
        (canonical_json(sorted(digests)),),
    )
    return [row["ref"] for row in rows]


def _find_number(
    connection: sqlite3.Connection, adapter_id: int, ref: AdapterRef, store: str
) -> tuple[int, str]:
    rows = connection.execute(
        "SELECT id, n FROM version WHERE adapter_id = ? ORDER BY n", (adapter_id,)
    ).fetchall()
    ids = {row["n"]: row["id"] for row in rows}
    n = max(ids, default=0) if ref.selector == "latest" else ref.selector
    if n not in ids:
        known = f"there are: {_span(list(ids))}" if ids else "there are none yet"
        raise NotFoundError(f"no version {str(ref)!r} in {store}; {known}")
    return ids[n], f"{ref.name}@{n}"


def _find_alias(
    connection: sqlite3.Connection, adapter_id: int, ref: AdapterRef, store: str
) -> tuple[int, str]:
    row = connection.execute(
        """
        SELECT version.id, version.n FROM alias JOIN version ON version.id = alias.version_id
        WHERE alias.adapter_id = ? AND alias.name = ? COLLATE BINARY
        """,
        (adapter_id, ref.selector),
    ).fetchone()
    if row is None:
        mend = suggest(str(ref.selector), aliases(connection, adapter_id))
        raise NotFoundError(f"no version {str(ref)!r} in {store}: no such alias{mend}")
    return row["id"], f"{ref.name}@{row['n']}"


def _span(numbers: list[int]) -> str:
    """Returns ``"1 to 4, 6"`` for 1, 2, 3, 4, 6."""
    starts = [n for n in numbers if n - 1 not in numbers]
    ends = [n for n in numbers if n + 1 not in numbers]
    pairs = zip(starts, ends, strict=True)
    return ", ".join(str(first) if first == last else f"{first} to {last}" for first, last in pairs)


def _find_digest(connection: sqlite3.Connection, selector: str, store: str) -> tuple[int, str]:
    prefix = selector.removeprefix("sha256:")
    rows = connection.execute(
        """
        SELECT version.id, adapter.name || '@' || version.n AS ref
        FROM version JOIN adapter ON adapter.id = version.adapter_id
        WHERE version.sha256 >= ?1 AND version.sha256 < ?1 || 'g' ORDER BY version.id
        """,
        (prefix,),
    ).fetchall()
    if not rows:
        raise NotFoundError(f"no version with digest {selector!r} in {store}; contpeft store list has them")
    if len(rows) > 1:
        refs = ", ".join(row["ref"] for row in rows)
        raise SpecError(f"digest {selector!r} is that of {len(rows)} versions: {refs}; name one of them")
    return rows[0]["id"], rows[0]["ref"]


def _parents(connection: sqlite3.Connection, ids: list[int]) -> dict[int, list[Parent]]:
    found: dict[int, list[Parent]] = {}
    for row in connection.execute(_PARENTS, (str(ids),)):
        found.setdefault(row["version_id"], []).append(Parent(row["ref"], row["role"], row["weight"]))
    return found


def _version(row: sqlite3.Row, parents: tuple[Parent, ...]) -> Version:
    return Version(
        ref=row["ref"],
        name=row["name"],
        n=row["n"],
        kind=row["kind"],
        fingerprint=row["fingerprint"],
        sha256=row["sha256"],
        bytes=row["bytes"],
        parameters=row["parameters"],
        config=parse_json(row["config"]),
        head=HeadSpec.from_json(parse_json(row["head"])) if row["head"] else None,
        base=BaseModel(row["base_name"], row["base_fingerprint"], row["base_parameters"]),
        origin=row["origin"],
        parents=parents,
        recipe=parse_json(row["recipe"]) if row["recipe"] else None,
        run=row["run"],
        task=row["task"],
        data=row["data"],
        environment=parse_json(row["environment"]),
        seconds=row["seconds"],
        created_at=row["created_at"],
    )
