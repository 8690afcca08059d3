"""The catalogue file: how it is opened, and what is done with one that cannot be used."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from store_audit import audit
from store_workers import BASE, make_state

from contpeft.errors import IntegrityError, StoreBusyError, UsageError
from contpeft.store import AdapterStore, database
from contpeft.store.blobs import Blobs


@pytest.fixture
def raw(store: AdapterStore) -> Iterator[sqlite3.Connection]:
    """A plain connection to a store with one version."""
    store.register("line", make_state(), base=BASE)
    with closing(sqlite3.connect(store.path / "store.db", isolation_level=None)) as connection:
        yield connection


def test_connections_are_durable_and_strict(store: AdapterStore) -> None:
    connection = store._db.connection()
    asked = {
        "foreign_keys": 1,
        "synchronous": 2,
        "trusted_schema": 0,
        "cell_size_check": 1,
        "recursive_triggers": 1,
        "journal_mode": "wal",
        "busy_timeout": 60_000,
        "application_id": 0x43504654,
        "user_version": database.SCHEMA_VERSION,
    }
    assert {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in asked} == asked
    assert connection.isolation_level is None


def test_every_table_is_strict_and_every_reference_names_its_column(raw: sqlite3.Connection) -> None:
    tables = raw.execute("SELECT name, strict FROM pragma_table_list WHERE type = 'table'").fetchall()
    ours = {name: strict for name, strict in tables if not name.startswith(("sqlite_", "_sqlite_"))}
    assert set(ours) == {
        *("adapter", "alias", "alias_change", "base_model", "blob", "event", "parent"),
        *(
            "pack",
            "remote",
            "run",
            "score",
            "step",
            "step_version",
            "tag",
            "task",
            "version",
            "version_metric",
        ),
    }
    assert set(ours.values()) == {1}
    for table in ours:
        assert all(row[4] for row in raw.execute(f"PRAGMA foreign_key_list({table})")), table


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE event SET actor = 'x'", "events are append-only"),
        ("DELETE FROM event", "events are append-only"),
        ("UPDATE version SET config = '{}'", "a version never changes"),
        ("UPDATE score SET value = 1", "a score never changes"),
        ("INSERT INTO parent VALUES (1, 0, 1, 'fused', NULL)", "parent_id < version_id"),
        ("INSERT INTO adapter (name) VALUES ('LINE')", "UNIQUE constraint failed: adapter.name"),
        ("INSERT INTO adapter (name) VALUES ('../x')", "CHECK constraint failed"),
        ("INSERT INTO blob (sha256, bytes) VALUES ('../x', 1)", "CHECK constraint failed"),
        ("INSERT INTO alias (adapter_id, name, version_id) VALUES (1, 'Latest', 1)", "CHECK constraint"),
        ("INSERT INTO alias (adapter_id, name, version_id) VALUES (1, '12', 1)", "CHECK constraint failed"),
        ("INSERT INTO tag VALUES (1, 'a b', '')", "CHECK constraint failed"),
        ("UPDATE alias_change SET actor = 'x'", "the history of an alias is append-only"),
        ("DELETE FROM alias_change", "the history of an alias is append-only"),
    ],
)
def test_the_schema_refuses(
    store: AdapterStore, raw: sqlite3.Connection, statement: str, message: str
) -> None:
    store.start_run("demo", config={}, seed=0, tasks=[], scenario="class-incremental")
    store.aliases.set("line@1", "champion")
    columns = "run, way, answer, step, task, protocol, metric, kind, value, n, composition, data, copied"
    raw.execute(
        f"INSERT INTO score ({columns}) VALUES "
        "('demo', 'w', 'a', 0, 't', 'task_aware', 'accuracy', 'end', 0.5, 1, 'c', 'd', 0)"
    )
    with pytest.raises(sqlite3.IntegrityError, match=message):
        raw.execute(statement)


def test_a_mistake_of_this_package_is_not_called_damage(store: AdapterStore) -> None:
    with pytest.raises(sqlite3.IntegrityError), store._db.write() as connection:
        connection.execute("INSERT INTO adapter (name) VALUES ('../x')")
    assert not store._db.connection().in_transaction


def test_a_failed_write_leaves_nothing(store: AdapterStore) -> None:
    def interrupted() -> None:
        with store._db.write() as connection:
            connection.execute("INSERT INTO adapter (name) VALUES ('line')")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert store.names() == []


def test_an_up_to_date_store_opens_without_migration_code(store: AdapterStore) -> None:
    store.names()
    code = (
        "import sys; from contpeft.store import AdapterStore\n"
        "print(AdapterStore(sys.argv[1]).names())\n"
        "print(sorted({'torch', 'numpy', 'pandas', 'sqlite_utils', 'safetensors'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(store.path)], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n[]\n", "")


def test_the_file_system_may_refuse_write_ahead_logging(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = sqlite3.connect

    def connect_without_shared_memory(path: Path, **options: object) -> sqlite3.Connection:
        return connect(f"file:{path}?vfs=unix-dotfile", uri=True, **options)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(sqlite3, "connect", connect_without_shared_memory)
    store = AdapterStore(tmp_path / "store")
    with pytest.warns(UserWarning, match="cannot use write-ahead logging here .*one process write at a time"):
        store.register("line", make_state(), base=BASE)
    assert store._db.connection().execute("PRAGMA journal_mode").fetchone()[0] == "delete"
    assert store.names() == ["line"]
    store.close()


def test_a_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "adapters").write_text("x")
    with pytest.raises(UsageError, match="adapters is a file; name a folder"):
        AdapterStore(tmp_path / "adapters")


def _zeros(path: Path) -> None:
    path.write_bytes(bytes(8192))


def _text(path: Path) -> None:
    path.write_text("this is no database\n" * 100)


def _foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA application_id = 7")
        connection.execute("CREATE TABLE notes (x)")


def _anonymous(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE notes (x)")


def _newer(path: Path) -> None:
    AdapterStore(path.parent).names()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


UNUSABLE = {
    _zeros: "store.db is damaged (file is not a database); restore it from a backup",
    _text: "store.db is damaged (file is not a database); restore it from a backup",
    _foreign: "store.db is not an adapter store (application id 0x7); name another folder, or move that",
    _anonymous: "store.db is not an adapter store (application id 0x0); name another folder, or move that",
    _newer: "store.db has schema 99, written by a newer contpeft; this one knows schema 3: upgrade contpeft",
}


@pytest.mark.parametrize(
    ("make", "message"), UNUSABLE.items(), ids=["zeros", "text", "foreign", "anonymous", "newer"]
)
def test_what_is_no_store_of_ours_is_refused_and_left_alone(
    tmp_path: Path, make: object, message: str
) -> None:
    path = tmp_path / "store" / "store.db"
    path.parent.mkdir()
    assert callable(make)
    make(path)
    before = path.read_bytes()
    with pytest.raises(IntegrityError) as caught:
        AdapterStore(path.parent).register("line", make_state(), base=BASE)
    assert message in str(caught.value)
    assert (caught.value.exit_code, "\n" in str(caught.value)) == (4, False)
    assert path.read_bytes() == before


def test_an_empty_file_becomes_a_store(tmp_path: Path) -> None:
    (tmp_path / "store.db").touch()
    store = AdapterStore(tmp_path, create=False)
    store.register("line", make_state(), base=BASE)
    assert audit(tmp_path) == []
    store.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The catalogue of a store of three versions."""
    store = AdapterStore(tmp_path_factory.mktemp("pages"))
    for i in range(3):
        store.register("line", make_state(i), base=BASE)
    store.close()
    return (store.path / "store.db").read_bytes()


def corrupted(pages: bytes, numbers: random.Random) -> bytes:
    """Returns ``pages`` with the rest of a page overwritten; one time in ten they are cut off as well."""
    data = bytearray(pages)
    page = numbers.randrange(len(data) // 4096) * 4096
    begin = page + numbers.randrange(0, 2048)
    data[begin : page + 4096] = numbers.randbytes(page + 4096 - begin)
    return bytes(data[: numbers.randrange(len(data))] if numbers.random() < 0.1 else data)


def refusal(read: Callable[[], object]) -> IntegrityError | None:
    try:
        read()
    except IntegrityError as error:
        return error
    return None


def test_damaged_pages_are_an_integrity_error(tmp_path: Path, pages: bytes) -> None:
    path, refusals = tmp_path / "store.db", []
    for seed in range(200):
        data = corrupted(pages, random.Random(seed))
        path.write_bytes(data)
        store = AdapterStore(tmp_path)
        refusals += [refusal(read) for read in (store.versions, store.events, store.upkeep.fsck)]
        store.close()
        assert path.read_bytes() == data, f"reading wrote with seed {seed}"
    told = [error for error in refusals if error]  # any other error, and any traceback, fails
    assert len(told) > 100
    assert {error.exit_code for error in told} == {4}
    assert not any("\n" in str(error) for error in told)


def test_a_lock_that_is_held_is_waited_for_and_then_named(
    store: AdapterStore, raw: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
    store.close()
    raw.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreBusyError) as caught:
        store.register("line", make_state(1), base=BASE)
    assert str(caught.value) == (
        f"cannot use {store.path}/store.db (database is locked): another process holds its lock; "
        "try again when that one is done"
    )
    assert [version.ref for version in store.versions()] == ["line@1"]  # readers are not kept waiting
    raw.execute("ROLLBACK")
    assert store.register("line", make_state(1), base=BASE).ref == "line@2"


def test_switching_to_write_ahead_logging_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "store.db"
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        with monkeypatch.context() as patch:
            patch.setattr(database, "BUSY_SECONDS", 0.05)
            with pytest.raises(StoreBusyError, match="database is locked"):
                AdapterStore(tmp_path).names()
        release = threading.Timer(0.2, holder.rollback)
        release.start()
        store = AdapterStore(tmp_path)
        assert store.names() == []
        store.close()
        release.join()


def test_a_damaged_row_is_an_integrity_error(store: AdapterStore, raw: sqlite3.Connection) -> None:
    raw.execute("DROP TRIGGER version_immutable")
    raw.execute("UPDATE version SET config = '{\"r\": 2'")
    with pytest.raises(
        IntegrityError, match=r"the store is damaged: '{\"r\": 2' is no JSON; restore a backup"
    ):
        store.show("line")


def test_a_path_comes_from_a_digest_alone(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=r"'\.\./x' is no SHA-256 digest"):
        Blobs(tmp_path).path("../x")
