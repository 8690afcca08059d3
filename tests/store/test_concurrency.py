"""Several processes and threads use one store at once: no error, nothing lost, numbers dense."""

from __future__ import annotations

import os
import threading
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
from store_audit import audit, leftovers
from store_processes import PROCESSES, exit_codes, run_all
from store_workers import (
    BASE,
    acknowledged,
    make_state,
    open_new,
    register_many,
    register_same,
)

from contpeft.store import AdapterStore

SMALL, LARGE = 4, 200_000  # rows: 272 bytes, 3.2 MB


@pytest.mark.parametrize(
    ("count", "rows", "writers"),
    [
        (25, SMALL, PROCESSES),
        pytest.param(200, SMALL, PROCESSES, marks=pytest.mark.acceptance),
        pytest.param(25, LARGE, 4, marks=pytest.mark.acceptance),
    ],
    ids=["quick", "many", "large"],
)
def test_register_from_several_processes(
    processes: ForkServerContext, tmp_path: Path, count: int, rows: int, writers: int
) -> None:
    path, told = tmp_path / "store", tmp_path / "told"
    start = processes.Barrier(writers)
    run_all(processes, register_many, path, told, start, rows, None, count=count, processes=writers)
    refs = acknowledged(told)
    assert len(refs) == writers * count
    assert (audit(path, refs), leftovers(path)) == ([], [])
    store = AdapterStore(path)
    assert {version.ref: version.sha256 for version in store.versions()} == refs
    store.close()


def test_a_lock_taken_late_is_caught(processes: ForkServerContext, tmp_path: Path) -> None:
    path, told = tmp_path / "store", tmp_path / "told"
    start = processes.Barrier(PROCESSES)
    codes = exit_codes(processes, register_many, path, told, start, SMALL, "lock-late", count=10)
    assert 1 in codes
    assert audit(path, acknowledged(told)) == []  # what is refused is refused whole


def test_equal_registrations_from_eight_processes_are_one(
    processes: ForkServerContext, tmp_path: Path
) -> None:
    path, told = tmp_path / "store", tmp_path / "told"
    run_all(processes, register_same, path, told, processes.Barrier(PROCESSES))
    lines = told.read_text().splitlines()
    assert (len(lines), len(set(lines)), lines[0].split()[0]) == (PROCESSES, 1, "same@1")
    assert (audit(path), leftovers(path)) == ([], [])
    assert len(list((path / "blobs").rglob("*.safetensors"))) == 1


@pytest.mark.parametrize("count", [8, pytest.param(25, marks=pytest.mark.acceptance)])
def test_first_open_by_eight_processes(processes: ForkServerContext, tmp_path: Path, count: int) -> None:
    told = tmp_path / "told"
    run_all(processes, open_new, tmp_path / "stores", told, processes.Barrier(PROCESSES), count)
    assert sorted(told.read_text().splitlines()) == sorted([f"{n} []" for n in range(count)] * PROCESSES)
    for number in range(count):
        assert audit(tmp_path / "stores" / str(number)) == []


def test_threads_share_a_store(store: AdapterStore) -> None:
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for i in range(5):
                store.register("shared", make_state(10 * seed + i), base=BASE)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sorted(version.n for version in store.versions()) == list(range(1, 31))
    assert audit(store.path) == []


def test_connections_of_dead_threads_are_closed(store: AdapterStore) -> None:
    for _ in range(4):
        thread = threading.Thread(target=store.names)
        thread.start()
        thread.join()
    assert len(store._db._connections) == 1


@pytest.mark.parametrize("forks", [5, pytest.param(50, marks=pytest.mark.acceptance)])
def test_a_forked_child_opens_its_own_connection(store: AdapterStore, forks: int) -> None:
    store.register("line", make_state(0), base=BASE)
    ours = store._db.connection()
    for i in range(1, forks + 1):
        child = os.fork()
        if child == 0:
            same = store._db.connection() is ours
            store.register("line", make_state(2 * i), base=BASE)
            os._exit(1 if same else 0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        store.register("line", make_state(2 * i + 1), base=BASE)
    assert store._db.connection() is ours
    assert [version.n for version in store.versions()] == list(range(2 * forks + 1, 0, -1))
    assert audit(store.path) == []
