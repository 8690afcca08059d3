"""The same small versions in a store and in MLflow's model registry on SQLite, registered and asked for."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from _harness import Comparison, compare, cpu_seconds, in_turn

from contpeft import AdapterStore
from contpeft.spec import AdapterState, BaseModel

if TYPE_CHECKING:
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

__all__ = ["VERSIONS", "against_mlflow"]

VERSIONS, LINE, PAGE, PAIRS, REPEATS = 2_000, 50, 50, 15, 5
BASE = BaseModel("base", "ba5e" * 16, 1)
SIDES = ("store", "MLflow registry")


def against_mlflow(folder: Path) -> list[Comparison]:
    """Fills both with 2,000 versions, each with a tag, then asks both the same questions.

    CPU time of one process. A page of the store is read with its tags, as MLflow's pages have them.
    Registering is more in the store: it writes and hashes a file, MLflow notes where one would be.
    """
    store, registry = AdapterStore(folder / "ours"), _registry(folder / "theirs")
    ours, theirs = _each(partial(_register, store)), _each(partial(_register_there, registry))
    made = in_turn(ours, theirs, VERSIONS)
    task = f"task-{VERSIONS // LINE - 1}"
    found = [compare(f"register {VERSIONS:,} small versions", SIDES, _in_ms(made), "ms")]
    questions: dict[str, tuple[Callable[[], list[str]], Callable[[], list[str]]]] = {
        "newest page of 50": (partial(_page, store), partial(_page_there, registry)),
        "page of 50 by a tag": (partial(_page, store, task), partial(_page_there, registry, task)),
    }
    for name, (ask, ask_there) in questions.items():
        if sorted(ask()) != sorted(ask_there()):
            raise AssertionError(f"{name}: the store and MLflow answer differently")
        pairs = in_turn(partial(_seconds, ask), partial(_seconds, ask_there), PAIRS)
        found.append(compare(f"{name} of {VERSIONS:,}", SIDES, _in_ms(pairs), "ms", goal=1.0))
    store.close()
    return found


def _registry(folder: Path) -> SqlAlchemyStore:
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    folder.mkdir()
    registry = SqlAlchemyStore(f"sqlite:///{folder}/mlflow.db")
    for line in range(VERSIONS // LINE):
        registry.create_registered_model(f"line-{line}")
    return registry


def _each(register: Callable[[int], object]) -> Callable[[], float]:
    """Returns a measurement that registers the next version at each call."""
    numbers = iter(range(VERSIONS))
    return lambda: cpu_seconds(lambda: register(next(numbers)))


def _register(store: AdapterStore, number: int) -> None:
    state = AdapterState("lora", {"r": 1}, {"a": torch.full((64,), float(number))})
    version = store.register(f"line-{number // LINE}", state, base=BASE)
    store.tags.set(version.ref, {"task": f"task-{number // LINE}"})


def _register_there(registry: SqlAlchemyStore, number: int) -> None:
    from mlflow.entities.model_registry import ModelVersionTag

    tags = [ModelVersionTag("task", f"task-{number // LINE}")]
    registry.create_model_version(f"line-{number // LINE}", f"file:///adapters/{number}", tags=tags)


def _page(store: AdapterStore, task: str | None = None) -> list[str]:
    """Returns a page of versions with their tags."""
    page = store.versions(tags=[f"task={task}"] if task else (), limit=PAGE)
    tags = store.tags.of(*(version.ref for version in page))
    return [f"{version.ref} {tags[version.ref]['task']}" for version in page]


def _page_there(registry: SqlAlchemyStore, task: str | None = None) -> list[str]:
    asked = f"tags.task = '{task}'" if task else None
    page = registry.search_model_versions(asked, max_results=PAGE, order_by=["creation_timestamp DESC"])
    return [f"{version.name}@{version.version} {version.tags['task']}" for version in page]


def _seconds(ask: Callable[[], object]) -> float:
    return cpu_seconds(lambda: [ask() for _ in range(REPEATS)]) / REPEATS


def _in_ms(pairs: list[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(1000 * first, 1000 * second) for first, second in pairs]
