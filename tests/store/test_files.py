"""The files: durable before they are named, named by their content, healed when damaged."""

from __future__ import annotations

import errno
import os
import random
import shutil
import stat
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from store_audit import audit, digest, leftovers
from store_faults import Faults
from store_workers import BASE, fill_the_disk, make_state, pack_and_tell

from contpeft.errors import IntegrityError, StoreBusyError
from contpeft.spec import AdapterState, Version
from contpeft.store import AdapterStore


def blob(store: AdapterStore, version: Version) -> Path:
    return store.path / "blobs" / version.sha256[:2] / f"{version.sha256}.safetensors"


def overwrite(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)


class Recorder:
    """Writes down what becomes durable in which order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[str] = []
        self._fsync, self._replace = os.fsync, os.replace
        monkeypatch.setattr(os, "fsync", self.fsync)
        monkeypatch.setattr(os, "replace", self.replace)

    def fsync(self, descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if path.is_dir():
            self.log.append(f"sync folder {path.name}")
        else:
            # The size says that all bytes had left Python's buffer when the file was synced.
            self.log.append(f"sync {path.stat().st_size} bytes in {path.parent.name}")
        self._fsync(descriptor)

    def replace(self, source: Path, target: Path) -> None:
        self.log.append(f"rename {source.parent.name} to {target.parent.parent.name}")
        self._replace(source, target)

    def statement(self, sql: str) -> None:
        told = " ".join(sql.split()[:3])
        # A statement that has triggers is told again after each of them.
        if told in ("BEGIN", "BEGIN IMMEDIATE", "COMMIT", "ROLLBACK", "INSERT INTO version"):
            self.log += [told] if self.log[-1:] != [told] else []


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="names open files by /proc")
def test_a_file_is_durable_before_a_row_names_it(
    store: AdapterStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.register("line", make_state(0), base=BASE)
    recorder = Recorder(monkeypatch)
    store._db.connection().set_trace_callback(recorder.statement)
    version = store.register("line", make_state(1), base=BASE)
    assert recorder.log == [
        "BEGIN",
        "COMMIT",
        "sync folder blobs",
        f"sync {version.bytes} bytes in tmp",
        "rename tmp to blobs",
        f"sync folder {version.sha256[:2]}",
        "BEGIN IMMEDIATE",
        "INSERT INTO version",
        "COMMIT",
    ]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="names open files by /proc")
def test_folders_of_a_file_that_was_there_are_synced_too(
    store: AdapterStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = store.register("line", make_state(), base=BASE)
    folder = f"sync folder {version.sha256[:2]}"
    recorder = Recorder(monkeypatch)
    store.register("other", make_state(), base=BASE)
    assert recorder.log == [folder]
    # Another process cannot know how far the maker of the folder came.
    newcomer = AdapterStore(store.path)
    newcomer.register("third", make_state(), base=BASE)
    newcomer.close()
    assert recorder.log[1:] == ["sync folder blobs", folder]
    shutil.rmtree(store._blobs.path(version.sha256).parent)
    store.register("fourth", make_state(), base=BASE)
    assert recorder.log[3:] == [
        "sync folder blobs",
        f"sync {version.bytes} bytes in tmp",
        "rename tmp to blobs",
        folder,
    ]


def test_equal_content_is_stored_once(store: AdapterStore) -> None:
    refs = [store.register(name, make_state(), base=BASE).ref for name in ("a", "b")]
    assert refs == ["a@1", "b@1"]
    assert len(list((store.path / "blobs").rglob("*.safetensors"))) == 1


def test_a_blob_is_a_plain_safetensors_file(store: AdapterStore) -> None:
    state = make_state(head=True)
    path = blob(store, store.register("line", state, base=BASE))
    assert digest(path) == path.stem
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert sorted(file.keys()) == sorted(state.tensors)
    assert leftovers(store.path) == []


def test_bytes_depend_on_the_tensors_alone(processes: ForkServerContext, tmp_path: Path) -> None:
    told = tmp_path / "told"
    for turn in range(6):
        packing = processes.Process(target=pack_and_tell, args=(told, turn % 2 == 0))
        packing.start()
        packing.join()
    version = AdapterStore(tmp_path / "store").register("line", make_state(7, head=True), base=BASE)
    assert told.read_text().splitlines() == [f"{version.sha256} {version.fingerprint}"] * 6


def test_the_fingerprint_outlives_the_file_format(store: AdapterStore) -> None:
    view = make_state().tensors
    longer = AdapterState("lora", {}, {**view, "x": torch.zeros(0)})
    first = store.register("line", make_state(), base=BASE)
    second = store.register("line", longer, base=BASE)
    assert first.fingerprint != second.fingerprint


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_files_are_read_only_and_readable_by_whom_the_umask_lets(
    store: AdapterStore, umask: Callable[[int], int], mask: int
) -> None:
    umask(mask)
    version = store.register("line", make_state(), base=BASE)
    assert stat.S_IMODE(blob(store, version).stat().st_mode) == 0o444 & ~mask


@pytest.mark.parametrize("turn", range(12))
def test_damage_is_refused_and_healed(store: AdapterStore, turn: int) -> None:
    numbers = random.Random(turn)
    version = store.register("line", make_state(), base=BASE)
    path = blob(store, version)
    data = bytearray(path.read_bytes())
    if turn < 8:
        data[numbers.randrange(len(data))] ^= 1 << numbers.randrange(8)
    else:
        del data[numbers.randrange(len(data)) :]
    overwrite(path, bytes(data))
    with pytest.raises(IntegrityError) as caught:
        store.load("line@1")
    assert str(caught.value) == (
        f"version 'line@1' in {store.path} is damaged: {path} has other bytes than were stored; "
        "register it again or restore a backup"
    )
    assert store.register("line", make_state(), base=BASE) == version
    assert torch.equal(
        store.load("line").tensors["layer.0.query.lora_A.weight"],
        make_state().tensors["layer.0.query.lora_A.weight"],
    )
    (kept,) = (store.path / "quarantine").iterdir()
    assert kept.read_bytes() == bytes(data)
    healed = store.events(version.sha256)
    assert [(event.action, event.detail) for event in healed] == [("blob.healed", {"quarantine": kept.name})]
    assert audit(store.path) == []


def test_a_lost_file_is_named_and_healed(store: AdapterStore) -> None:
    version = store.register("line", make_state(), base=BASE)
    blob(store, version).unlink()
    for verify in (True, False):
        with pytest.raises(IntegrityError, match=rf"version 'line@1' in .*{version.sha256}.*No such file"):
            store.load("line", verify=verify)
    store.register("other", make_state(), base=BASE)
    assert audit(store.path) == []
    assert list((store.path / "quarantine").iterdir()) == []


def test_unverified_loads_still_refuse_what_is_no_safetensors_file(store: AdapterStore) -> None:
    version = store.register("line", make_state(), base=BASE)
    overwrite(blob(store, version), b"\xff" * version.bytes)
    with pytest.raises(IntegrityError, match=r"version 'line@1' in .* is damaged"):
        store.load("line", verify=False)


def test_a_file_collected_before_the_rows_is_written_again(
    store: AdapterStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, collected = store._blobs.put, []

    def put_and_collect(data: bytes, sha256: str) -> Path | None:
        result = put(data, sha256)
        if not collected:
            store._blobs.path(sha256).unlink()
            collected.append(sha256)
        return result

    monkeypatch.setattr(store._blobs, "put", put_and_collect)
    version = store.register("line", make_state(), base=BASE)
    assert (version.ref, len(collected)) == ("line@1", 1)
    assert audit(store.path) == []


def test_files_that_keep_vanishing_are_an_error(store: AdapterStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store._blobs, "put", lambda data, sha256: None)
    with pytest.raises(StoreBusyError, match=r"files vanish from .*/blobs"):
        store.register("line", make_state(), base=BASE)
    assert store.versions() == []


CALLS = ("open", "fsync", "replace")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from-then-on"])
def test_every_failing_call_leaves_the_store_as_it_was(
    store: AdapterStore, monkeypatch: pytest.MonkeyPatch, code: int, lasting: bool
) -> None:
    store.register("line", make_state(0), base=BASE)
    # The folder of folders is opened and synced; the file opened, synced and renamed; then its folder.
    for at in range(1, 8):
        with monkeypatch.context() as patch:
            Faults(patch, CALLS, code, at, lasting=lasting)
            with pytest.raises(
                StoreBusyError, match=rf"\Acannot use {store.path}.*{os.strerror(code)}; .*\Z"
            ):
                store.register("line", make_state(at), base=BASE)
        assert [version.ref for version in store.versions()] == ["line@1"]
        assert leftovers(store.path) == []
    with monkeypatch.context() as patch:
        faults = Faults(patch, CALLS, code, 8, lasting=lasting)
        assert store.register("line", make_state(8), base=BASE).ref == "line@2"
    assert faults.calls == 7
    assert audit(store.path) == []


def test_a_disk_that_is_really_full(processes: ForkServerContext, tmp_path: Path) -> None:
    path, told = tmp_path / "store", tmp_path / "told"
    filling = processes.Process(target=fill_the_disk, args=(path, told))
    filling.start()
    filling.join()
    blob_line, database_line = told.read_text().splitlines()
    assert "File too large; raise the limit on file sizes" in blob_line
    assert "store.db (disk I/O error): reading or writing failed; check the free space" in database_line
    store = AdapterStore(path)
    assert [version.ref for version in store.versions()] == ["line@1"]
    assert (audit(path), leftovers(path)) == ([], [])
    store.close()
