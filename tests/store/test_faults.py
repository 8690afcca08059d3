"""Whatever is done to a store may be cut short at any call or statement: by death, or by the disk."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from store_audit import audit
from store_exchange import learn
from store_faults import Faults
from store_fusion import learn_three
from store_workers import BASE, make_state

from contpeft.errors import IntegrityError, NotFoundError, StoreBusyError, UsageError
from contpeft.spec import Parent
from contpeft.store import AdapterStore, Policy, Request, database

CALLS = ("open", "fsync", "replace", "unlink", "link", "rename", "mkdir")


def back_up(store: AdapterStore) -> None:
    shutil.rmtree(store.path.parent / "copy", ignore_errors=True)
    store.upkeep.backup(store.path.parent / "copy")


OPERATIONS: dict[str, Callable[[AdapterStore], object]] = {
    "register": lambda store: store.register("line", make_state(99), base=BASE, parents=[Parent("line@1")]),
    "remove": lambda store: store.upkeep.remove(["line@3", "line@2"]),
    "gc": lambda store: store.upkeep.gc(timedelta(0)),
    "prune": lambda store: store.upkeep.prune(Policy(last=1)),
    "alias": lambda store: store.aliases.set("line@2", "champion"),
    "undo": lambda store: store.aliases.undo("line", "champion"),
    "tag": lambda store: store.tags.set("line@2", {"a": "1", "b": "2"}),
    "rename": lambda store: store.upkeep.rename("line", "other"),
    "repair": lambda store: store.upkeep.fsck(repair=True),
    "backup": back_up,
    "fuse": lambda store: store.fusion.fuse(Request(["a", "b", "c"], rule="tsv"), "abc"),
    "unbundle": lambda store: store.transfer.unbundle(store.path.parent / "incoming.tar"),
}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with line@1 to line@4, three to fuse, an alias, garbage of three kinds, and one damaged file.

    Beside it a bundle of another store: a run, versions of which one has a name that is taken here.
    """
    store = AdapterStore(tmp_path_factory.mktemp("original") / "store")
    for seed in range(4):
        store.register("line", make_state(seed), base=BASE)
    store.register("junk", make_state(50), base=BASE)
    store.upkeep.remove(["junk"])
    store.aliases.set("line@1", "champion")
    learn_three(store)
    (store.path / "tmp" / "left").write_bytes(b"x")
    orphan = store._blobs.path("ab" * 32)
    orphan.parent.mkdir(exist_ok=True)
    orphan.write_bytes(b"x")
    store.close()
    other = AdapterStore(store.path.parent / "other")
    learn(other)
    other.register("line", make_state(60), base=BASE)
    other.transfer.bundle(store.path.parent / "incoming.tar")
    other.close()
    return store.path


@pytest.fixture
def copies(original: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Makes a fresh copy of the store; ``repair`` finds a damaged file in it."""

    def copy(operation: str) -> Path:
        shutil.rmtree(tmp_path / "store", ignore_errors=True)
        path = Path(shutil.copytree(original, tmp_path / "store"))
        shutil.copy(original.parent / "incoming.tar", tmp_path)
        if operation == "repair":
            damaged = damaged_file(path)
            damaged.chmod(0o644)
            damaged.write_bytes(b"x" * damaged.stat().st_size)
        return path

    return copy


def damaged_file(path: Path) -> Path:
    store = AdapterStore(path)
    sha256 = store.show("line@4").sha256
    store.close()
    return store._blobs.path(sha256)


def problems(path: Path, operation: str) -> list[str]:
    """Returns what the audit finds but for what was wrong before: an orphan, and what repair is for."""
    expected = ("torn", "dangling") if operation == "repair" else ()
    found = [each for each in audit(path) if each != f"torn: {'ab' * 32}.safetensors"]
    return [each for each in found if not each.startswith(expected)]


class Interruption:
    """Does something before the ``at``-th call to the operating system or statement of SQL."""

    def __init__(self, at: int, act: Callable[[], None], store: AdapterStore, *, sql: bool) -> None:
        self.at, self.act, self.calls = at, act, 0
        self.real = {name: getattr(os, name) for name in CALLS}
        if sql:
            store._db.connection().set_trace_callback(lambda _: self.count())

    def count(self) -> None:
        self.calls += 1
        if self.calls == self.at:
            self.act()

    def install(self, patch: Callable[[Any, str, object], None]) -> None:
        for name, real in self.real.items():
            patch(os, name, self._counting(real))

    def _counting(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.count()
            return real(*args, **kwargs)

        return call


def dies(path: Path, operation: str, at: int) -> bool:
    """Does an operation in a child that is killed before its ``at``-th step; returns whether it was."""
    child = os.fork()
    if child == 0:
        store = AdapterStore(path)
        cut = Interruption(at, lambda: os.kill(os.getpid(), signal.SIGKILL), store, sql=True)
        cut.install(setattr)
        OPERATIONS[operation](store)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


EVERY = [(operation, 5 if operation == "backup" else 1) for operation in OPERATIONS]


@pytest.mark.parametrize(
    ("operation", "stride"), [*EVERY, pytest.param("backup", 1, marks=pytest.mark.acceptance)]
)
def test_killed_at_every_step(copies: Callable[[str], Path], operation: str, stride: int) -> None:
    at, killed = 1, True
    while killed:
        path = copies(operation)
        killed = dies(path, operation, at)
        assert problems(path, operation) == [], f"killed at step {at}"
        if killed:
            store = AdapterStore(path)
            with suppress(NotFoundError, UsageError):  # done already, a moment before its end
                OPERATIONS[operation](store)
            store.close()
            assert problems(path, operation) == [], f"killed at step {at}, then done"
        at += stride
    assert at > 5


def message_of(operation: Callable[[AdapterStore], object], store: AdapterStore) -> str | None:
    """Returns what an operation says when it fails, or None when it goes through."""
    try:
        operation(store)
    except StoreBusyError as error:
        return str(error)
    return None


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from-then-on"])
@pytest.mark.parametrize("operation", ["gc", "repair", "backup", "unbundle"])
def test_every_failing_call_is_one_line(
    copies: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, operation: str, code: int, lasting: bool
) -> None:
    at, reached = 1, True
    while reached:
        path = copies(operation)
        store = AdapterStore(path)
        store.names()
        with monkeypatch.context() as patch:
            faults = Faults(patch, CALLS, code, at, lasting=lasting)
            message = message_of(OPERATIONS[operation], store)
        reached = faults.calls >= at
        # None where it goes through: a folder that cannot be made may be there already.
        assert message is None or (os.strerror(code) in message and "\n" not in message)
        store.close()
        assert problems(path, operation) == [], f"call {at} failed"
        assert not list(path.parent.glob(".copy-*")) or lasting
        at += 1
    assert at > 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MB, where this user may make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", folder]).returncode != 0:
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.acceptance
def test_a_disk_that_fills_up(small_disk: Path) -> None:
    store, refs = AdapterStore(small_disk / "store"), {}
    with pytest.raises(StoreBusyError, match="free some space and try again"):  # noqa: PT012
        for seed in range(100):
            version = store.register("line", make_state(seed, rows=50_000), base=BASE)
            refs[version.ref] = version.sha256
    assert len(refs) > 5
    with suppress(StoreBusyError):  # a small one may find room
        store.register("line", make_state(200), base=BASE)
    assert audit(store.path, refs) == []
    store.upkeep.remove([f"line@{n}" for n in range(1, 6)])
    store.upkeep.gc(timedelta(0))
    assert store.register("line", make_state(300, rows=50_000), base=BASE).n > len(refs)
    store.close()
    assert audit(store.path) == []


def test_a_store_that_may_only_be_read(
    copies: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = copies("read")
    connect = database.sqlite3.connect

    def connect_read_only(name: object, **options: object) -> object:
        return connect(f"file:{name}?mode=ro", uri=True, **options)

    monkeypatch.setattr(database.sqlite3, "connect", connect_read_only)
    store = AdapterStore(path)
    assert store.resolve("line@champion") == "line@1"
    assert store.load("line@1").kind == "lora"
    for name in ("register", "remove", "gc", "alias", "tag", "rename"):
        with pytest.raises(StoreBusyError, match="it is read-only; make the folder and its files writable"):
            OPERATIONS[name](store)
    store.close()
    assert problems(path, "read") == []


def test_damage_to_the_catalogue_is_one_line(copies: Callable[[str], Path]) -> None:
    path = copies("read")
    data = bytearray((path / "store.db").read_bytes())
    data[4096:] = b"\x07" * (len(data) - 4096)
    (path / "store.db").write_bytes(data)
    store = AdapterStore(path)
    for name, operation in OPERATIONS.items():
        with pytest.raises(IntegrityError, match=r"store.db is damaged .*; restore it from a backup"):
            operation(store)
        assert "\n" not in name
    store.close()
