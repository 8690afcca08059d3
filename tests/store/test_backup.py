"""Backups: one moment, whole, while others write; opening them is restoring."""

from __future__ import annotations

import errno
import os
import shutil
from datetime import timedelta
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
import torch
from store_audit import audit
from store_processes import wait_for_lines
from store_workers import BASE, make_state, register_for_ever

from contpeft.errors import StoreBusyError, UsageError
from contpeft.store import AdapterStore, Backup


@pytest.fixture
def line(store: AdapterStore) -> AdapterStore:
    """line@1, line@2 with an alias, a removed version, and its file."""
    for seed in range(3):
        store.register("line", make_state(seed), base=BASE)
    store.upkeep.remove(["line@3"])
    store.aliases.set("line@1", "champion")
    return store


def test_a_backup_is_a_store(line: AdapterStore, tmp_path: Path) -> None:
    made = line.upkeep.backup(tmp_path / "copy")
    size = 2 * line.show("line").bytes
    assert made == Backup(tmp_path / "copy", versions=2, files=2, bytes=size, linked=2, findings=())
    copy = AdapterStore(made.path, create=False)
    assert (copy.versions(), copy.aliases.of()) == (line.versions(), line.aliases.of())
    assert copy.events() == line.events()[:-1]
    assert line.events()[-1].action == "store.backed_up"
    assert torch.equal(*(s.load("line").tensors["layer.0.query.lora_A.weight"] for s in (copy, line)))
    assert copy.register("line", make_state(7), base=BASE).ref == "line@4"
    assert (audit(copy.path), audit(line.path)) == ([], [])
    assert len(line.versions()) == 2
    copy.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "store"]


def test_a_backup_outlives_the_store(line: AdapterStore, tmp_path: Path) -> None:
    line.upkeep.backup(tmp_path / "copy")
    line.aliases.remove("line", "champion")
    line.upkeep.remove(["line@1", "line@2"])
    line.upkeep.gc(timedelta(0))
    line.close()
    shutil.rmtree(line.path)
    copy = AdapterStore(tmp_path / "copy")
    assert copy.load("line@champion").kind == "lora"
    assert (copy.upkeep.fsck().findings, audit(copy.path)) == ((), [])
    copy.close()


def test_a_folder_that_is_there_is_left_alone(line: AdapterStore, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    with pytest.raises(UsageError, match="copy exists; name a folder that does not"):
        line.upkeep.backup(tmp_path / "copy")
    assert list((tmp_path / "copy").iterdir()) == []


def test_to_another_file_system_files_are_copied(
    line: AdapterStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def across(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", across)
    made = line.upkeep.backup(tmp_path / "copy")
    assert (made.files, made.linked) == (2, 0)
    assert audit(made.path) == []


def test_writers_wait_only_for_what_is_new(
    line: AdapterStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the first files are brought, a version comes and another one goes: the copy has it so."""
    link, meanwhile = os.link, iter([None])

    def slow_link(source: Path, target: Path) -> None:
        link(source, target)
        for _ in meanwhile:
            line.register("line", make_state(7), base=BASE)
            line.upkeep.remove(["line@2"])
            line.upkeep.gc(timedelta(0))

    monkeypatch.setattr(os, "link", slow_link)
    made = line.upkeep.backup(tmp_path / "copy")
    copy = AdapterStore(made.path)
    assert [version.ref for version in copy.versions()] == ["line@4", "line@1"]
    assert (made.versions, made.files, made.linked, made.findings) == (2, 2, 2, ())
    assert len(list((made.path / "blobs").rglob("*.safetensors"))) == 2
    assert audit(made.path) == []
    copy.close()


@pytest.mark.parametrize("name", ["link", "rename", "fsync"])
def test_a_failed_backup_leaves_nothing(
    line: AdapterStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, name, full)
        with pytest.raises(StoreBusyError, match="No space left on device; free some space"):
            line.upkeep.backup(tmp_path / "copy")
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    assert audit(line.path) == []


def test_damage_is_told_and_the_rest_is_saved(line: AdapterStore, tmp_path: Path) -> None:
    line._blobs.path(line.show("line@1").sha256).unlink()
    made = line.upkeep.backup(tmp_path / "copy")
    assert [(finding.kind, finding.subject) for finding in made.findings] == [("missing", "line@1")]
    copy = AdapterStore(made.path)
    assert copy.load("line@2").kind == "lora"
    copy.close()


def test_backups_while_another_process_writes(processes: ForkServerContext, tmp_path: Path) -> None:
    path, told = tmp_path / "store", tmp_path / "told"
    writer = processes.Process(target=register_for_ever, args=(path, told, 0, 4, None))
    writer.start()
    wait_for_lines(told, 3)
    store = AdapterStore(path)
    counts = []
    for number in range(5):
        before = len(store.versions())
        made = store.upkeep.backup(tmp_path / f"copy-{number}")
        assert made.findings == ()
        assert audit(made.path) == []
        assert made.versions >= before
        counts.append(made.versions)
    writer.kill()
    writer.join()
    assert counts == sorted(set(counts)), "the writer stood still"
    store.close()
