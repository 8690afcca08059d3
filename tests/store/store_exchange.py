"""Stores that have something to exchange, and what two stores have in common."""

from __future__ import annotations

from pathlib import Path

from store_workers import BASE, make_state

from contpeft.spec import Parent, Score, Single, Task
from contpeft.store import AdapterStore

TASKS = [Task("tickets", ("a", "b")), Task("mail", ("c", "d"))]


def score(step: int, task: str, value: float, run: str = "demo") -> Score:
    return Score(run, "ewc", "main", step, task, "task_aware", "accuracy", value, 10, f"c{step}", "d")


def learn(store: AdapterStore, steps: int = 2, *, run: str = "demo", shift: int = 0) -> None:
    """Runs two tasks one after another: ``demo.ewc@1`` and, made from it, ``demo.ewc@2``."""
    store.start_run(run, config={"seed": shift}, seed=shift, tasks=TASKS, scenario="class-incremental")
    for step, task in enumerate(TASKS[:steps]):
        version = store.register(
            f"{run}.ewc",
            make_state(10 * shift + step, head=bool(step)),
            base=BASE,
            run=run,
            task=task.name,
            parents=[Parent(f"{run}.ewc@1")] if step else [],
            seconds=1.5,
        )
        store.finish_step(
            run,
            "ewc",
            step,
            task=task.name,
            answers={"main": Single(version.ref)},
            versions=[version.ref],
            scores=[score(step, each.name, 0.9 - 0.1 * step - 0.1 * i, run) for i, each in enumerate(TASKS)],
            seconds=2.0,
        )


def fill(path: Path) -> AdapterStore:
    """Returns a store with everything in it that travels."""
    store = AdapterStore(path)
    store.register("other", make_state(99), base=BASE, origin="imported")
    learn(store)
    store.finish_run("demo", "finished")
    weights = [Parent("demo.ewc@2", "fused", 0.5), Parent("other@1", "fused", 0.5)]
    recipe = {"rule": "average", "of": ["demo.ewc@2", "other@1"]}
    store.register("both", make_state(5), base=BASE, origin="fused", recipe=recipe, parents=weights)
    store.aliases.set("demo.ewc@1", "champion")
    store.aliases.set("demo.ewc@2", "champion")
    store.tags.set("demo.ewc@2", {"keep": "", "owner": "ada"})
    return store


def content(store: AdapterStore) -> dict[str, object]:
    """Returns all that travels, in an order that does not depend on when it came."""
    return {
        "versions": sorted(store.versions(), key=lambda version: version.ref),
        "tensors": {v.ref: store.load(v.ref).tensors.keys() for v in store.versions()},
        "runs": store.runs(),
        "steps": [step for run in store.runs() for step in store.steps(run.name)],
        "scores": store.scores(),
        "aliases": [move for name in store.names() for move in store.aliases.log(name)],
        "tags": store.tags.of(),
    }
