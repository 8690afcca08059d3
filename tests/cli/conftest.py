"""What the command line's tests share: a filled store, and a way to call a command."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from contpeft.cli import app
from contpeft.spec import Parent, Score, Single, Task
from contpeft.store import AdapterStore

sys.path.append(str(Path(__file__).parent))

from cli_helpers import BASE, HEAD, state


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[AdapterStore]:
    """billing@1, billing@2 made from it by the run ``demo``, and both of them fused."""
    store = AdapterStore(tmp_path / "adapters")
    tasks = [Task("tickets", ("no", "yes")), Task("[red]\x1b[31m\nmail", ("a",))]
    store.start_run("demo", config={}, seed=0, tasks=tasks, scenario="class-incremental")
    store.register("billing", state(1), base=BASE, origin="imported")
    parents = [Parent("billing@1")]
    task = tasks[0].name
    store.register(
        "billing",
        state(2, HEAD),
        base=BASE,
        run="demo",
        task=task,
        parents=parents,
        data="da7a",
        seconds=61.26,
    )
    parents = [Parent("billing@1", "fused", 0.25), Parent("billing@2", "fused", 0.75)]
    store.register("both", state(3), base=BASE, origin="fused", recipe={"rule": "sum"}, parents=parents)
    store.register("mail", state(4), base=BASE, task=tasks[1].name)
    cells = [("tickets", 0.9251), (tasks[1].name, 0.5)]
    store.finish_step(
        "demo",
        "ewc",
        0,
        task=task,
        answers={"main": Single("billing@2")},
        versions=["billing@2"],
        seconds=70.0,
        scores=[
            Score("demo", "ewc", "main", 0, name, "task_aware", "accuracy", value, 1200, "c0mp", "da7a")
            for name, value in cells
        ],
    )
    other = Score("demo", "ewc", "main", -1, "tickets", "task_aware", "accuracy", 0.1, 1200, "ba5e", "da7a")
    store.add_scores([other])
    yield store
    store.close()


@pytest.fixture
def call(filled: AdapterStore) -> Callable[..., Result]:
    """Runs ``contpeft ...`` on the filled store."""

    def run(*arguments: str, **environment: str) -> Result:
        return CliRunner().invoke(
            app, arguments, env={"CONTPEFT_STORE": str(filled.path), "TERM": "dumb", **environment}
        )

    return run
