"""Measuring compositions on tasks, each cell once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import lightning.pytorch as L
import torch
from torch import Tensor

from contpeft.adapters import ClassHead
from contpeft.experiments.tasks import TaskData, TaskStream
from contpeft.spec import TASK_HITS, Base, Composition, Concat, Part, Protocol, Score
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
        kept: scores of compositions on data, shared by the steps of a way: what is asked again after every
            task, such as isolated adapters for their confidence, is computed once.
    """

    context: Context
    stream: TaskStream
    run: str
    way: str
    protocols: Sequence[Protocol]
    reads: str
    kept: dict[tuple[Part | Concat, str], tuple[Tensor, tuple[str, ...]]] = field(default_factory=dict)

    def after(self, step: int, answers: dict[str, Composition]) -> list[Score]:
        """Returns the scores of every answer on every task up to ``step``.

        A composition measured before on equal data is not measured again: the score is copied and
        says so. With the task known a routed composition is its own choice, which later tasks do
        not change, so isolated adapters cost one measurement a task.
        """
        answerer = self.answerer()
        return [
            score
            for answer, composition in answers.items()
            for group in range(step + 1)
            for protocol in self.protocols
            for score in self.cell(answer, composition, step, group, protocol, answerer)
        ]

    def answerer(self) -> Answerer:
        """Returns what answers, for all protocols from the same scores."""
        context = self.context
        base, store = context.adapted.base, context.store
        return Answerer(
            context.adapted,
            context.load,
            context.features,
            lambda part: temperature_of(part, base, store),
            kept=self.kept,
        )

    def cell(
        self,
        answer: str,
        composition: Composition,
        step: int,
        group: int,
        protocol: Protocol,
        answerer: Answerer,
    ) -> list[Score]:
        """Returns the score of a composition on one task; where labels tell the task, its hits too.

        Args:
            answer: what the composition is called.
            composition: what answers.
            step: the index of the task learnt last.
            group: that of the task whose rows are asked.
            protocol: which labels may be answered.
            answerer: what :meth:`answerer` returned.
        """
        data = self.stream[group]
        effective = task_choice(composition, group) if protocol == "task_aware" else composition
        among = self._among(data, step, protocol)
        base, store = self.context.adapted.base, self.context.store
        reads = f"{self.reads}{among}{temperatures(effective, base, store)}"
        key = composition_key(effective, base, store.show, reads)
        metrics = [data.task.metric]
        if protocol != "task_aware" and self.stream.scenario == "class-incremental":
            metrics.append(TASK_HITS)
        known = {metric: self._known(key, data, protocol, metric) for metric in metrics}
        if any(each is None for each in known.values()):
            answered = answerer.predict(effective, data.test.inputs, data.test.digest(), among)
            values = {data.task.metric: _accuracy(answered, data), TASK_HITS: _hits(answered, data)}
        return [
            self._score(answer, step, data, protocol, values[metric], key, metric=metric)
            if each is None
            else self._score(answer, step, data, protocol, each.value, key, metric=metric, copied=True)
            for metric, each in known.items()
        ]

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
            value=value,
            n=len(data.test),
            composition=key,
            data=data.test.digest(),
            **{"metric": data.task.metric, **told},
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
        # The key leaves out adapters below the one at hand, so nothing is looked up by it.
        state = adapted.state() if adapted.active else None
        key = state_key(state, adapted.base, f"{self.reads}{data.classes}")
        return self._score("main", step, data, "task_aware", value, key, kind="start")

    def _known(self, key: str, data: TaskData, protocol: Protocol, metric: str) -> Score | None:
        return self.context.store.cached_score(
            composition=key, data=data.test.digest(), protocol=protocol, metric=metric
        )


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

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measures; at the first task there is nothing to transfer."""
        measure = self._measure()
        if measure.context.step > 0 and not self._recipe.joint:
            self.scores = measure.start(self._recipe, self._data)


def _accuracy(answered: Sequence[str], data: TaskData) -> float:
    right = sum(a == b for a, b in zip(answered, data.test.labels, strict=True))
    return right / len(data.test)


def _hits(answered: Sequence[str], data: TaskData) -> float:
    """Returns the share of rows that were given a label of their task, right or wrong."""
    return sum(label in data.classes for label in answered) / len(data.test)
