"""A run as the store keeps it: five tasks of newsgroups, four strategies, five answers, two seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from contpeft.experiments.report import RunResult, collect
from contpeft.spec import (
    AdapterState,
    BaseModel,
    Composition,
    HeadSpec,
    Parent,
    Protocol,
    Route,
    Score,
    Single,
    Task,
)
from contpeft.store import AdapterStore

TASKS = tuple(
    Task(name, classes)
    for name, classes in {
        "graphics-hardware": ("comp.graphics", "comp.sys.mac.hardware"),
        "autos-hockey": ("rec.autos", "rec.sport.hockey"),
        "crypt-space": ("sci.crypt", "sci.space"),
        "guns-mideast": ("talk.politics.guns", "talk.politics.mideast"),
        "atheism-christian": ("alt.atheism", "soc.religion.christian"),
    }.items()
)
LAST = len(TASKS) - 1
BASE = BaseModel("all-MiniLM-L6-v2", "6f1c2e9d" * 8, 22_713_216)
CONFIG = {
    "name": "newsgroups",
    "stream": {"data": "20newsgroups", "tasks": 5, "train_per_class": 100},
    "adapter": {"method": "lora", "r": 8, "targets": ["query", "value"]},
    "train": {"epochs": 3, "lr": 0.001, "batch_size": 32},
    "ways": {"frozen": {}, "sequential": {}, "isolated": {}, "joint": {}},
}
N = 160

Curve = Callable[[int, int], float]
"""Score after step i on task j, for i >= j."""

SPEED = (0.02, 0.0, 0.01, -0.01, -0.04)
"""How much easier than the others each task is."""


def known(i: int, j: int, first: float, drop: float) -> float:
    return first + SPEED[j] - drop * (i - j)


CURVES: dict[tuple[str, str], dict[Protocol, Curve]] = {
    ("frozen", "class-means"): {
        "task_aware": lambda i, j: known(i, j, 0.885, 0),
        "all_classes": lambda i, j: known(i, j, 0.86, 0.034),
    },
    ("frozen", "lda"): {
        "task_aware": lambda i, j: known(i, j, 0.905, -0.002),
        "all_classes": lambda i, j: known(i, j, 0.88, 0.038),
    },
    ("sequential", "main"): {
        "task_aware": lambda i, j: known(i, j, 0.935, 0.055 - 0.012 * ((i + j) % 3)),
        "all_classes": lambda i, j: 0.955 + SPEED[j] if i == j else 0.21 / (i - j) ** 2,
    },
    ("isolated", "main"): {
        "task_aware": lambda i, j: known(i, j, 0.94, 0),
        "all_classes": lambda i, j: known(i, j, 0.90, 0.045),
    },
    ("joint", "main"): {
        "task_aware": lambda i, j: known(j, j, 0.945, 0),
        "all_classes": lambda i, j: known(j, j, 0.80, 0),
    },
}


def share(value: float, seed: int) -> float:
    """A share of N right answers, moved a little by the seed."""
    return round(min(1.0, max(0.0, value + 0.004 * seed)) * N) / N


def state(kind: str, value: float, classes: tuple[str, ...]) -> AdapterState:
    head = HeadSpec("statistics" if kind == "statistics" else "cosine", classes)
    tensors = {"lora_A.weight": torch.full((2, 4), value), "head.weight": torch.full((2, 4), -value)}
    return AdapterState(kind, {"r": 2}, tensors, head)


class Recorder:
    """Writes one run into a store the way a runner does."""

    def __init__(self, store: AdapterStore, run: str, seed: int) -> None:
        self.store, self.run, self.seed = store, run, seed
        store.start_run(
            run, config={**CONFIG, "seed": seed}, seed=seed, tasks=TASKS, scenario="class-incremental"
        )

    def register(self, name: str, step: int, kind: str = "lora", *parents: Parent) -> str:
        classes = tuple(label for task in TASKS[: step + 1] for label in task.classes)
        value = self.seed + step + sum(map(ord, name)) / 1000
        version = self.store.register(
            f"{self.run}.{name}",
            state(kind, value, classes),
            base=BASE,
            parents=parents,
            run=self.run,
            task=TASKS[step].name,
        )
        return version.ref

    def scores(self, way: str, answer: str, step: int, tasks: range) -> list[Score]:
        return [
            Score(
                self.run,
                way,
                answer,
                step,
                TASKS[j].name,
                protocol,
                "accuracy",
                share(curve(step, j), self.seed),
                N,
                f"{way}/{answer}/{step}",
                TASKS[j].name,
                copied=way == "isolated" and protocol == "task_aware" and j < step,
            )
            for protocol, curve in CURVES[way, answer].items()
            for j in tasks
        ]

    def start_scores(self, way: str, step: int) -> list[Score]:
        """Before training: through the adapters of earlier tasks, and through the bare base."""
        task = TASKS[step].name
        values = {step - 1: 0.87 + SPEED[step] - 0.01 * step * (way == "sequential"), -1: 0.8}
        return [
            Score(
                self.run,
                way,
                "main",
                after,
                task,
                "task_aware",
                "accuracy",
                share(value, self.seed),
                N,
                f"{way}/start/{after}",
                task,
                kind="start",
            )
            for after, value in values.items()
            if step > 0
        ]

    def finish(
        self,
        way: str,
        step: int,
        answers: dict[str, Composition],
        versions: list[str],
        scores: list[Score],
        seconds: float,
    ) -> None:
        self.store.finish_step(
            self.run,
            way,
            step,
            task=TASKS[step].name,
            answers=answers,
            versions=versions,
            scores=scores,
            seconds=seconds,
        )


def record_frozen(recorder: Recorder) -> str:
    """Class statistics alone; returns the last version, which routes."""
    ref = ""
    for step in range(len(TASKS)):
        parents = (Parent(ref),) if ref else ()
        ref = recorder.register("statistics", step, "statistics", *parents)
        answers = {answer: Single(ref) for answer in ("class-means", "lda")}
        scores = [s for answer in answers for s in recorder.scores("frozen", answer, step, range(step + 1))]
        recorder.finish("frozen", step, dict(answers), [ref], scores, 4.5)
    return ref


def record_sequential(recorder: Recorder) -> None:
    """One adapter trained on and on."""
    ref = ""
    for step in range(len(TASKS)):
        parents = (Parent(ref),) if ref else ()
        ref = recorder.register("sequential", step, "lora", *parents)
        scores = recorder.start_scores("sequential", step)
        scores += recorder.scores("sequential", "main", step, range(step + 1))
        recorder.finish("sequential", step, {"main": Single(ref)}, [ref], scores, 38.0)


def record_isolated(recorder: Recorder, router: str) -> None:
    """One adapter for each task; the router finds it."""
    refs: list[str] = []
    for step, task in enumerate(TASKS):
        refs.append(recorder.register(f"isolated.{task.name}", step))
        answer = Route(router, tuple(map(Single, refs)))
        scores = recorder.start_scores("isolated", step)
        scores += recorder.scores("isolated", "main", step, range(step + 1))
        recorder.finish("isolated", step, {"main": answer}, [refs[-1]], scores, 39.5)


def record_joint(recorder: Recorder) -> None:
    """All tasks at once."""
    ref = recorder.register("joint", LAST)
    scores = recorder.scores("joint", "main", LAST, range(len(TASKS)))
    recorder.finish("joint", LAST, {"main": Single(ref)}, [ref], scores, 186.0)


def record_run(store: AdapterStore, run: str, seed: int) -> None:
    recorder = Recorder(store, run, seed)
    router = record_frozen(recorder)
    record_sequential(recorder)
    record_isolated(recorder, router)
    record_joint(recorder)
    store.finish_run(run, "finished")


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdapterStore]:
    store = AdapterStore(Path(tmp_path_factory.mktemp("adapters")))
    record_run(store, "newsgroups-s0", 0)
    record_run(store, "newsgroups-s1", 5)
    yield store
    store.close()


@pytest.fixture(scope="session")
def result(store: AdapterStore) -> RunResult:
    return collect(store, "newsgroups-s0")
