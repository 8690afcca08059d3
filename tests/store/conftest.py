"""What the store's tests share: small states, and processes that start fast."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest

from contpeft.spec import AdapterState, BaseModel, Score, Single, Task
from contpeft.store import AdapterStore

# Processes import the helpers beside this file (store_audit, store_workers) by name.
sys.path.append(str(Path(__file__).parent))

from store_workers import BASE, make_state


@pytest.fixture
def store(tmp_path: Path) -> Iterator[AdapterStore]:
    opened = AdapterStore(tmp_path / "store")
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def processes() -> ForkServerContext:
    """Starts processes from a server that has imported torch, without this one's threads and files."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "safetensors.torch", "sqlite_utils"])
    return context


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


OTHER = BaseModel("other-bert", "07he5" * 10, 1)


def score(step: int, task: str, value: float, **other: Any) -> Score:
    told = {"protocol": "task_aware", "metric": "accuracy", **other}
    return Score(
        "demo", "ewc", "main", step, task, value=value, n=10, composition=f"c{step}", data="d", **told
    )


@pytest.fixture
def filled(store: AdapterStore) -> AdapterStore:
    """a@1, a@2 and a@3 after two tasks of a run, b@1 large and on another base, C@1 imported."""
    tasks = [Task("one", ("x",)), Task("sci.space", ("y",)), Task("last", ("z",))]
    store.start_run("demo", config={}, seed=0, tasks=tasks, scenario="class-incremental")
    values = [
        {"one": 0.9, "sci.space": 0.1},
        {"one": 0.8, "sci.space": 1.0},
        {"one": 0.5, "sci.space": 0.5, "last": 0.2},
    ]
    for step, cells in enumerate(values):
        told = {"run": "demo", "task": tasks[step].name, "data": f"d{step}"}
        ref = store.register("a", make_state(step), base=BASE, **told).ref
        store.finish_step(
            "demo",
            "ewc",
            step,
            task=tasks[step].name,
            answers={"main": Single(ref)},
            versions=[ref],
            scores=[
                *(score(step, task, value) for task, value in cells.items()),
                score(step, "one", 0.3, protocol="all_classes"),
                score(step, "one", float(step), metric="loss"),
            ],
            seconds=1.0,
        )
    large = make_state(7, rows=64, r=4)
    config = {"r": 4, "flag": True, "none": None, "list": ["q", "v"], "a.b": 0.5, "name": "it's"}
    store.register("b", AdapterState("dora", config, large.tensors), base=OTHER)
    store.register("C", make_state(8), base=BASE, origin="imported")
    store.tags.set("a@1", {"owner": "ada", "keep": ""})
    store.tags.set("b", {"owner": "bob"})
    store.aliases.set("a@2", "champion")
    store.aliases.set("b", "champion")
    return store
