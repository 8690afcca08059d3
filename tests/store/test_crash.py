"""A process that is killed at any moment leaves a store in which nothing is lost or half there."""

from __future__ import annotations

import random
import time
from datetime import timedelta
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
from store_audit import audit, leftovers
from store_processes import kill_after, wait_for_lines
from store_workers import BASE, TWINS, acknowledged, create_for_ever, make_state, register_for_ever

from contpeft.store import AdapterStore


def crash(
    context: ForkServerContext, store: Path, seed: int, rows: int, twin: str | None = None
) -> list[str]:
    """Kills a registering process soon after its first few versions; returns what the audit finds."""
    told = store.parent / f"{store.name}-{seed}"
    process = context.Process(target=register_for_ever, args=(store, told, seed, rows, twin))
    process.start()
    wait_for_lines(told, 1 + seed % 4)  # "ready", then a line for each version
    kill_after(process, random.Random(seed).uniform(0, 0.03))
    versions = {ref: sha for ref, sha in acknowledged(told).items() if ref != "ready"}
    return audit(store, versions)


@pytest.mark.parametrize("kills", [25, pytest.param(500, marks=pytest.mark.acceptance)])
def test_killed_while_registering(processes: ForkServerContext, tmp_path: Path, kills: int) -> None:
    path = tmp_path / "store"
    for seed in range(kills):
        assert crash(processes, path, seed, rows=4 if seed % 2 else 20_000) == []
    survivors = AdapterStore(path)
    assert len(survivors.versions()) >= sum(seed % 4 for seed in range(kills))
    version = survivors.register("after", make_state(), base=BASE)
    assert (version.ref, audit(path)) == ("after@1", [])
    survivors.upkeep.gc(timedelta(0))
    assert (leftovers(path), survivors.inspect.usage().orphans, audit(path)) == ([], 0, [])
    survivors.close()


@pytest.mark.parametrize(("twin", "symptom"), [("rows-before-file", "dangling"), ("write-in-place", "torn")])
def test_audit_catches_broken_twins(
    processes: ForkServerContext, tmp_path: Path, twin: str, symptom: str
) -> None:
    assert twin in TWINS
    found: list[str] = []
    for seed in range(60):
        found = crash(processes, tmp_path / "store", seed, rows=4, twin=twin)
        if found:
            break
    assert found
    assert found[0].startswith(symptom)


def test_killed_while_making_stores(processes: ForkServerContext, tmp_path: Path) -> None:
    for attempt in range(8):
        folder = tmp_path / str(attempt)
        process = processes.Process(target=create_for_ever, args=(folder,))
        process.start()
        while not folder.exists():
            time.sleep(0.001)
        kill_after(process, random.Random(attempt).uniform(0, 0.06))
        for path in folder.iterdir():
            reopened = AdapterStore(path)
            assert (reopened.names(), audit(path)) == ([], [])
            reopened.close()
