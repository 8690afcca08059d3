"""Measuring compositions on tasks, each cell once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import lightning.pytorch as L
import torch

from contpeft.adapters import ClassHead
from contpeft.experiments.tasks import TaskData, TaskStream
from contpeft.spec import Base, Composition, Protocol, Score
from contpeft.strategies import (
    Answerer,
    Context,
    Recipe,
    best_labels,
    composition_key,
    state_key,
    task_choice,
)
from contpeft.strategies.calibrated import temperature_of, temperatures

__all__ = ["Measure", "StartScores"]


@dataclass(frozen=True)
class Measure:
    """Measures one way after one of its tasks.

    Attributes:
        context: the way's context.
        stream: the stream whose tasks are measured.
        run: id of the run.
        way: name of the way.
        protocols: which protocols to measure.
        reads: names how inputs become batches; part of the key a score is cached under.
    """

    context: Context
    stream: TaskStream
    run: str
    way: str
    protocols: Sequence[Protocol]
    reads: str

    def after(self, step: int, answers: dict[str, Composition]) -> list[Score]:
        """Returns the scores of every answer on every task up to ``step``.

        A composition measured before on equal data is not measured again: the score is copied and
        says so. With the task known a routed composition is its own choice, which later tasks do
        not change, so isolated adapters cost one measurement a task.
        """
        return [
            self.cell(answer, composition, step, group, protocol, answerer)
            for answer, composition in answers.items()
            for group in range(step + 1)
            for answerer in [self.answerer()]
            for protocol in self.protocols
        ]

    def answerer(self) -> Answerer:
        """Returns what answers one task's rows: for all protocols from the same scores."""
        context = self.context
        base, store = context.adapted.base, context.store
        return Answerer(
            context.adapted,
            context.load,
            context.features,
            lambda part: temperature_of(part, base, store),
            kept={},
        )

    def cell(
        self,
        answer: str,
        composition: Composition,
        step: int,
        group: int,
        protocol: Protocol,
        answerer: Answerer,
    ) -> Score:
        """Returns the score of a composition on one task.

        Args:
            answer: what the composition is called.
            composition: what answers.
            step: the index of the task learnt last.
            group: that of the task whose rows are asked.
            protocol: which labels may be answered.
            answerer: what :meth:`answerer` returned for the task.
        """
        data = self.stream[group]
        effective = task_choice(composition, group) if protocol == "task_aware" else composition
        among = self._among(data, step, protocol)
        base, store = self.context.adapted.base, self.context.store
        reads = f"{self.reads}{among}{temperatures(effective, base, store)}"
        key = composition_key(effective, base, store.show, reads)
        known = store.cached_score(
            composition=key, data=data.test.digest(), protocol=protocol, metric=data.task.metric
        )
        if known is None:
            answered = answerer.predict(effective, data.test.inputs, data.test.digest(), among)
            value = _accuracy(answered, data)
        else:
            value = known.value
        return self._score(answer, step, data, protocol, value, key, copied=known is not None)

    def _among(self, data: TaskData, step: int, protocol: Protocol) -> tuple[str, ...] | None:
        if protocol == "task_aware":
            return data.classes
        return self.stream.seen(step) if protocol == "seen_classes" else None

    def _score(
        self, answer: str, step: int, data: TaskData, protocol: Protocol, value: float, key: str, **told: Any
    ) -> Score:
        return Score(
            run=self.run,
            way=self.way,
            answer=answer,
            step=step,
            task=data.name,
            protocol=protocol,
            metric=data.task.metric,
            value=value,
            n=len(data.test),
            composition=key,
            data=data.test.digest(),
            **told,
        )

    def start(self, recipe: Recipe, data: TaskData) -> list[Score]:
        """Returns what forward transfer compares, the task known: before any training step.

        The score on the task through the adapter as earlier tasks left it, with its head just
        started (``step`` of the task before), and the same through the bare base (``step`` -1).
        The model is left as it was, the state of the random generators too.
        """
        adapted, head = self.context.adapted, self.context.adapted.head
        if head is None or not hasattr(head, "classes"):
            return []
        started = self._started(data, self.context.step - 1)
        with torch.random.fork_rng(devices=[]), adapted.applied(Base()):
            recipe.head.start(self.context)
            bare = self._started(data, -1)
        adapted.set_head(head)
        return [started, bare]

    def _started(self, data: TaskData, step: int) -> Score:
        adapted = self.context.adapted
        head = cast(ClassHead, adapted.head)
        features = self.context.features.current(data.test.inputs, data.test.digest())
        with torch.no_grad():
            scores = head.forward(features.to(adapted.device)).cpu()
        value = _accuracy(best_labels(scores, head.classes, data.classes, f"the head of {data.name}"), data)
        state = adapted.state() if adapted.active else None
        key = state_key(state, adapted.base, f"{self.reads}{data.classes}")
        return self._score("main", step, data, "task_aware", value, key, kind="start")


class StartScores(L.Callback):
    """Measures the task at hand before its first training step; needed for forward transfer.

    Args:
        measure: gives what measures, once the adapter is attached.
        recipe: whose head has just been started.
        data: the task.

    Attributes:
        scores: what was measured.
    """

    def __init__(self, measure: Callable[[], Measure], recipe: Recipe, data: TaskData) -> None:
        self.scores: list[Score] = []
        self._measure = measure
        self._recipe = recipe
        self._data = data

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measures; at the first task there is nothing to transfer."""
        measure = self._measure()
        if measure.context.step > 0 and not self._recipe.joint:
            self.scores = measure.start(self._recipe, self._data)


def _accuracy(answered: Sequence[str], data: TaskData) -> float:
    right = sum(a == b for a, b in zip(answered, data.test.labels, strict=True))
    return right / len(data.test)
