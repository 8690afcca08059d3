"""Collecting garbage: all that nothing needs, nothing that something needs, whoever is writing."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
from store_audit import audit, leftovers
from store_workers import BASE, collect_for_ever, make_state, register_and_remove

from contpeft.store import AdapterStore, Collected

NOW = timedelta(0)


def blobs(store: AdapterStore) -> set[str]:
    return {path.stem for path in (store.path / "blobs").rglob("*.safetensors")}


def test_files_of_removed_versions_are_deleted(store: AdapterStore) -> None:
    kept, gone = (store.register("line", make_state(seed), base=BASE) for seed in (1, 2))
    store.register("copy", make_state(1), base=BASE)
    store.upkeep.remove(["line@1", "line@2"])
    before = store.events("store")
    dry = store.upkeep.gc(NOW, dry_run=True)
    assert (dry, blobs(store)) == (Collected((gone.sha256,), (), gone.bytes), {kept.sha256, gone.sha256})
    assert store.events("store") == before
    assert store.upkeep.gc(NOW) == dry
    assert blobs(store) == {kept.sha256}
    (event,) = store.events("store")
    assert (event.action, event.detail) == (
        "blobs.collected",
        {"blobs": [gone.sha256], "bytes": gone.bytes},
    )
    assert store.upkeep.gc(NOW) == Collected((), (), 0)
    assert store.load("copy").kind == "lora"
    assert store.register("line", make_state(2), base=BASE).sha256 == gone.sha256
    assert audit(store.path) == []


def test_what_is_young_stays(store: AdapterStore) -> None:
    for seed in (1, 2):
        store.register("line", make_state(seed), base=BASE)
    old, young = store.show("line@1"), store.show("line@2")
    store.upkeep.remove(["line@1", "line@2"])
    day = 86_400
    for version, age in ((old, 1.1 * day), (young, 0.9 * day)):
        then = time.time() - age
        os.utime(store._blobs.path(version.sha256), (then, then))
    assert store.upkeep.gc().blobs == (old.sha256,)
    assert blobs(store) == {young.sha256}


def test_what_killed_processes_left_goes_too(store: AdapterStore) -> None:
    version = store.register("line", make_state(), base=BASE)
    orphan = store.path / "blobs" / "ab" / f"{'ab' * 32}.safetensors"
    orphan.parent.mkdir()
    orphan.write_bytes(b"12345")
    (store.path / "tmp" / "1-2").write_bytes(b"123")
    assert store.upkeep.gc() == Collected((), (), 0)
    assert store.upkeep.gc(NOW, dry_run=True) == Collected(("ab" * 32,), ("1-2",), 8)
    assert store.upkeep.gc(NOW) == Collected(("ab" * 32,), ("1-2",), 8)
    assert (blobs(store), leftovers(store.path)) == ({version.sha256}, [])


def test_a_row_whose_file_is_gone_goes_too(store: AdapterStore) -> None:
    version = store.register("line", make_state(), base=BASE)
    store.upkeep.remove(["line"])
    store._blobs.path(version.sha256).unlink()
    assert store.upkeep.gc(NOW) == Collected((version.sha256,), (), 0)
    assert store.upkeep.gc(NOW) == Collected((), (), 0)


def test_what_is_not_ours_stays(store: AdapterStore) -> None:
    store.names()
    strangers = [store.path / "blobs" / "notes.txt", store.path / "blobs" / "ab" / "x.safetensors"]
    for path in strangers:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert store.upkeep.gc(NOW) == Collected((), (), 0)
    assert all(path.exists() for path in strangers)


def test_more_than_one_batch(store: AdapterStore) -> None:
    store.names()
    names = [f"{number:064x}" for number in range(250)]
    for name in names:
        path = store._blobs.path(name)
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert store.upkeep.gc(NOW).blobs == tuple(names)
    assert [len(event.detail["blobs"]) for event in store.events("store")] == [100, 100, 50]


def gc_against_writers(
    context: ForkServerContext, folder: Path, seconds: float, *, naive: bool
) -> tuple[list[str], int, bool]:
    """Returns what the audit finds, how much was collected, and whether every writer came through."""
    path, told = folder / "store", folder / "told"
    AdapterStore(path).names()
    writers = [
        context.Process(target=register_and_remove, args=(path, told, seed, seconds)) for seed in range(4)
    ]
    collector = context.Process(target=collect_for_ever, args=(path, folder / "collected", naive))
    for process in (*writers, collector):
        process.start()
    for process in writers:
        process.join(timeout=120)
    collector.kill()
    collector.join()
    lines = (folder / "collected").read_text().splitlines()
    return audit(path), int(lines[-1].split()[0]), all(process.exitcode == 0 for process in writers)


def test_gc_against_four_writers(processes: ForkServerContext, tmp_path: Path) -> None:
    found, collected, unharmed = gc_against_writers(processes, tmp_path, 3, naive=False)
    assert (found, unharmed) == ([], True)
    assert collected > 10


@pytest.mark.acceptance
def test_gc_against_four_writers_for_long(processes: ForkServerContext, tmp_path: Path) -> None:
    found, collected, unharmed = gc_against_writers(processes, tmp_path, 30, naive=False)
    assert (found, unharmed) == ([], True)
    assert collected > 100


def test_gc_without_the_lock_is_caught(processes: ForkServerContext, tmp_path: Path) -> None:
    found, _, unharmed = gc_against_writers(processes, tmp_path, 2, naive=True)
    assert found or not unharmed
