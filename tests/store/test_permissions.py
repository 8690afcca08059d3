"""Who may do what is the file system's to say: modes follow the umask, what is refused is one line."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from store_audit import audit
from store_workers import BASE, make_state

from contpeft.errors import StoreBusyError
from contpeft.store import AdapterStore

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that other users may enter, unlike pytest's."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name) / "store"


def made(path: Path, umask: Callable[[int], int], mask: int) -> AdapterStore:
    umask(mask)
    store = AdapterStore(path)
    store.register("line", make_state(0), base=BASE)
    return store


ATTEMPTS: dict[str, Callable[[AdapterStore], object]] = {
    "list": lambda store: [version.ref for version in store.versions()],
    "load": lambda store: sorted(store.load("line@1").tensors),
    "fsck": lambda store: store.upkeep.fsck().findings,
    "register": lambda store: store.register("line", make_state(5), base=BASE),
    "alias": lambda store: store.aliases.set("line@1", "champion"),
}


def attempt_as(path: Path, group: int) -> dict[str, str]:
    """Returns what another user of that group is told, attempt by attempt."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(group)
        os.setuid(NOBODY)
        store = AdapterStore(path)
        for name, attempt in ATTEMPTS.items():
            try:
                told = f"{attempt(store)}"
            except StoreBusyError as error:  # any other error ends the child, and the test
                told = f"refused: {error}"
            os.write(writing, f"{name}={told}\n".encode())
        os._exit(0)
    os.close(writing)
    with open(reading) as lines:
        told = dict(line.rstrip("\n").split("=", 1) for line in lines)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert list(told) == list(ATTEMPTS)  # one line each
    return told


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_modes_follow_the_umask(tmp_path: Path, umask: Callable[[int], int], mask: int) -> None:
    store = made(tmp_path / "store", umask, mask)
    paths = [store.path, *store.path.rglob("*")]
    assert {"store.db", "store.db-wal", "store.db-shm", "blobs", "tmp", "quarantine"} <= {
        p.name for p in paths
    }
    for path in paths:
        full = 0o777 if path.is_dir() else 0o444 if path.suffix == ".safetensors" else 0o644
        assert stat.S_IMODE(path.stat().st_mode) == full & ~mask, path
    store.close()


READ = {
    "list": "['line@1']",
    "load": "['layer.0.query.lora_A.weight', 'layer.0.query.lora_B.weight']",
    "fsck": "()",
}


@needs_root
@pytest.mark.parametrize(("mask", "group"), [(0o022, NOBODY), (0o027, 0)], ids=["others", "group"])
def test_who_may_read_reads_what_is_open_and_writes_nothing(
    shared: Path, umask: Callable[[int], int], mask: int, group: int
) -> None:
    store = made(shared, umask, mask)
    told = attempt_as(shared, group)
    assert {name: told.pop(name) for name in READ} == READ
    assert all("make the folder and its files" in line for line in told.values()), told
    assert [version.ref for version in store.versions()] == ["line@1"]
    store.close()
    assert audit(shared) == []


@needs_root
@pytest.mark.parametrize(("mask", "group"), [(0o022, NOBODY), (0o027, NOBODY), (0o077, 0)])
def test_a_store_closed_to_a_user_is_one_line(
    shared: Path, umask: Callable[[int], int], mask: int, group: int
) -> None:
    made(shared, umask, mask).close()
    before = {path: path.stat().st_mtime_ns for path in shared.rglob("*")}
    for line in attempt_as(shared, group).values():
        assert line.startswith(f"refused: cannot use {shared}/")
        assert "make the folder and its files" in line
    assert {path: path.stat().st_mtime_ns for path in shared.rglob("*")} == before
    assert audit(shared) == []


@needs_root
def test_a_read_only_folder_of_ones_own_is_one_line(shared: Path, umask: Callable[[int], int]) -> None:
    made(shared, umask, 0o022).close()
    for path in [*shared.rglob("*"), shared]:
        os.chown(path, NOBODY, NOBODY)
        path.chmod(0o555 if path.is_dir() else 0o444)
    assert all("read-only; make the folder" in line for line in attempt_as(shared, NOBODY).values())
    for path in shared.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    shared.chmod(0o755)
    told = attempt_as(shared, NOBODY)
    assert {name: told[name] for name in READ} == READ
    assert "line@2" in told["register"]
