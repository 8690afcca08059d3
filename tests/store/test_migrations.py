"""A store of each released schema becomes one of today's, whole, once, and with nothing lost."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
from store_audit import audit
from store_processes import PROCESSES, run_all
from store_workers import BASE, make_state, open_and_tell

from contpeft.spec import Parent
from contpeft.store import AdapterStore
from contpeft.store.database import SCHEMA_VERSION

FROZEN = Path(__file__).parent / "frozen"
RELEASED = sorted(path.name for path in FROZEN.iterdir())


def thawed(folder: Path, name: str) -> Path:
    """Returns a writable copy of a frozen store."""
    return Path(shutil.copytree(FROZEN / name, folder / name))


def schema(store: Path) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(store / "store.db")) as connection:
        rows = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name")
        return [(kind, name, table, " ".join((sql or "").split())) for kind, name, table, sql in rows]


def rows(store: Path, columns: dict[str, list[str]]) -> dict[str, list[tuple[object, ...]]]:
    with closing(sqlite3.connect(store / "store.db")) as connection:
        return {
            table: connection.execute(f"SELECT {', '.join(names)} FROM {table} ORDER BY 1, 2").fetchall()
            for table, names in columns.items()
        }


def columns(store: Path, tables: list[str]) -> dict[str, list[str]]:
    with closing(sqlite3.connect(store / "store.db")) as connection:
        return {
            table: [name for _, name, *_ in connection.execute(f"PRAGMA table_info({table})")]
            for table in tables
        }


def test_there_is_a_frozen_store_of_every_released_schema() -> None:
    assert [f"schema-{number}" for number in range(1, SCHEMA_VERSION)] == RELEASED


@pytest.mark.parametrize("name", RELEASED)
def test_an_old_store_gets_the_schema_of_a_new_one(tmp_path: Path, name: str) -> None:
    AdapterStore(tmp_path / "new").names()
    old = thawed(tmp_path, name)
    AdapterStore(old).names()
    assert schema(old) == schema(tmp_path / "new")
    assert audit(old) == []


def test_nothing_is_lost_from_schema_1(tmp_path: Path) -> None:
    old = thawed(tmp_path, "schema-1")
    tables = ["adapter", "base_model", "blob", "version", "parent", "run", "task", "step", "score", "event"]
    kept = columns(old, tables)
    before = rows(old, kept)
    store = AdapterStore(old)
    assert [version.ref for version in store.versions()] == [
        "both@1",
        "demo.ewc@2",
        "demo.ewc@1",
        "imported@1",
    ]
    assert store.load("demo.ewc@2").tensors.keys() == make_state(head=True).tensors.keys()
    assert store.register("demo.ewc", store.load("demo.ewc@1"), base=BASE, run="demo", task="tickets").n == 1
    store.close()
    assert rows(old, kept) == before
    with closing(sqlite3.connect(old / "store.db")) as connection:
        made = connection.execute(
            "SELECT step_id, version_id FROM step_version WHERE made ORDER BY 1"
        ).fetchall()
        others = connection.execute("SELECT count(*) FROM step_version WHERE NOT made").fetchone()
    # demo.ewc@1 and @2 are the second and third version; step 2 answers with two more it did not make.
    assert (made, others) == ([(1, 2), (2, 3)], (2,))


def test_nothing_is_lost_from_schema_2(tmp_path: Path) -> None:
    old = thawed(tmp_path, "schema-2")
    tables = [
        "adapter",
        "version",
        "parent",
        "step_version",
        "score",
        "alias",
        "alias_change",
        "tag",
        "event",
    ]
    kept = columns(old, tables)
    before = rows(old, kept)
    store = AdapterStore(old)
    assert store.resolve("demo.ewc@champion") == "demo.ewc@2"
    assert store.aliases.log("demo.ewc", "champion")[0].before == 1
    store.close()
    assert rows(old, kept) == before
    with closing(sqlite3.connect(old / "store.db")) as connection:
        (uid,) = connection.execute("SELECT uid FROM version WHERE id = 1").fetchone()
        runs = connection.execute("SELECT uid = name || ' ' || started_at FROM run").fetchall()
    first = store.show("imported@1")
    assert uid.split()[:2] == ["imported@1", first.created_at]
    assert runs == [(1,)]


def test_an_upgraded_store_is_used_as_any_other(tmp_path: Path) -> None:
    store = AdapterStore(thawed(tmp_path, "schema-1"))
    store.aliases.set("demo.ewc@1", "champion")
    store.tags.set("demo.ewc@2", {"keep": ""})
    version = store.register("demo.ewc", make_state(7), base=BASE, parents=[Parent("demo.ewc@champion")])
    assert (version.ref, version.parents) == ("demo.ewc@3", (Parent("demo.ewc@1"),))
    store.close()
    assert audit(store.path) == []


def grow(store: Path, count: int) -> None:
    """Adds ``count`` versions to a store of schema 1, with plain SQL."""
    with closing(sqlite3.connect(store / "store.db")) as connection:
        connection.execute(
            f"""
            INSERT INTO version (adapter_id, n, kind, sha256, fingerprint, parameters, config, base_id,
                                 origin, environment, identity)
            WITH RECURSIVE k (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM k WHERE i < {count})
            SELECT 1, 1 + i, 'lora', sha256, fingerprint, parameters, config, base_id,
                   origin, '{{}}', 'id' || i
            FROM k, version WHERE version.id = 1
            """
        )
        connection.execute(f"UPDATE adapter SET next_n = {count + 2} WHERE id = 1")
        connection.execute(
            "INSERT INTO event (actor, action, subject, detail) "
            "SELECT 'ada', 'version.registered', 'imported@' || n, '{}' FROM version "
            "WHERE identity LIKE 'id%'"
        )
        connection.commit()


def test_ten_thousand_versions_are_upgraded(tmp_path: Path) -> None:
    old = thawed(tmp_path, "schema-1")
    grow(old, 10_000)
    assert AdapterStore(old).resolve("imported") == "imported@10001"
    assert audit(old) == []


def test_upgrade_by_eight_processes(processes: ForkServerContext, tmp_path: Path) -> None:
    old, told = thawed(tmp_path, "schema-1"), tmp_path / "told"
    run_all(processes, open_and_tell, old, told, processes.Barrier(PROCESSES))
    assert told.read_text().splitlines() == ["both demo.ewc imported"] * PROCESSES
    with closing(sqlite3.connect(old / "store.db")) as connection:
        applied = connection.execute("SELECT name FROM _sqlite_migrations ORDER BY id").fetchall()
    assert [name for (name,) in applied] == ["m001_catalogue", "m002_upkeep", "m003_exchange"]
    assert audit(old) == []


def killed_at_statement(store: Path, step: str, number: int) -> bool:
    """Opens a store in a child that dies before that statement of a step; returns whether it did."""
    child = os.fork()
    if child == 0:
        from contpeft.store import schema_2, schema_3

        module: Any = {"schema_2": schema_2, "schema_3": schema_3}[step]

        def die(statement: str) -> str:
            os.kill(os.getpid(), 9)
            return statement

        class Deadly(tuple[str, ...]):
            def __iter__(self):  # type: ignore[no-untyped-def]
                for place, statement in enumerate(tuple.__iter__(self)):
                    yield die(statement) if place == number else statement

        module.STATEMENTS = Deadly(module.STATEMENTS)
        AdapterStore(store).names()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -9


@pytest.mark.parametrize(("step", "statements"), [("schema_2", 15), ("schema_3", 10)])
def test_killed_while_upgrading(tmp_path: Path, step: str, statements: int) -> None:
    AdapterStore(tmp_path / "new").names()
    old, number = thawed(tmp_path, "schema-1"), 0
    before = schema(old)
    while killed_at_statement(old, step, number):
        assert schema(old) == before
        number += 1
    assert number >= statements
    assert schema(old) == schema(tmp_path / "new")
    assert audit(old) == []
