"""Runs a sequence of tasks, one way after another, and goes on where it was stopped.

The store is the memory: a step is done when one transaction has written its scores and what
answers after it. Whatever a step needs from earlier ones it reads from the store, in a straight
run too, so a resumed run takes the same path: same seeds, same tensors, same scores.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from contpeft.adapters import AdaptedModel
from contpeft.callbacks import ContinualAdapter
from contpeft.digest import json_digest
from contpeft.experiments.config import Experiment
from contpeft.experiments.measure import Measure, StartScores
from contpeft.experiments.progress import Observer, Progress, ProgressCallback
from contpeft.experiments.tasks import TaskData
from contpeft.spec import Score, Version
from contpeft.store import AdapterStore, Run, Status
from contpeft.strategies import (
    Classifier,
    Context,
    FeatureCache,
    Recipe,
    TrainingData,
    as_classifier,
    find_recipe,
)

__all__ = ["run_experiment"]


def run_experiment(experiment: Experiment, observer: Observer | None = None) -> Run:
    """Runs every way of an experiment through its stream; finished steps are kept as they are.

    Args:
        experiment: what to run.
        observer: is told where the run is.

    Returns:
        The finished run; its scores and versions are in the experiment's store.

    Raises:
        ConfigError: if a run of this name has other settings.
        ContpeftError: whatever stops the run; the store then calls it failed, or interrupted, and
            the same call goes on at the first unfinished step.
    """
    return _Sequence(experiment, observer or (lambda _progress: None)).run()


@dataclass
class _Sequence:
    experiment: Experiment
    observer: Observer
    cache: FeatureCache = field(default_factory=dict)

    def run(self) -> Run:
        experiment = self.experiment
        torch.set_num_threads(experiment.threads)
        self.stream = experiment.stream.build(experiment.seed)
        self.store = AdapterStore(experiment.store)
        self.store.start_run(
            experiment.name,
            config=experiment.identity() | {"data": self.stream.digest()},
            seed=experiment.seed,
            tasks=[data.task for data in self.stream],
            scenario=self.stream.scenario,
        )
        self._done, self._total = 0, sum(self._batches(name) for name in experiment.strategies)
        status: Status = "interrupted"
        try:
            for name in experiment.strategies:
                self._way(name, find_recipe(name))
            status = "finished"
        except Exception:
            status = "failed"
            raise
        finally:
            self.store.finish_run(experiment.name, status)
        return self.store.run(experiment.name)

    def _tasks(self, recipe: Recipe) -> list[tuple[int, TaskData]]:
        """Returns the tasks a way learns, each with its step: all at once, or one by one."""
        if recipe.joint:
            return [(len(self.stream) - 1, self.stream.union())]
        return list(enumerate(self.stream))

    def _batches(self, name: str) -> int:
        recipe = find_recipe(name)
        return sum(self._step_batches(recipe, data) for _, data in self._tasks(recipe))

    def _step_batches(self, recipe: Recipe, data: TaskData) -> int:
        epochs = self.experiment.max_epochs
        return epochs * math.ceil(len(data.train) / self.experiment.batch_size) * recipe.init.trains

    def _way(self, name: str, recipe: Recipe) -> None:
        steps = {step.step: step for step in self.store.steps(self.experiment.name, name)}
        history: list[Version] = []
        tasks = self._tasks(recipe)
        for index, (step, data) in enumerate(tasks):
            at = Progress(name, index, len(tasks), data.name, "start", done=self._done, total=self._total)
            if step in steps:
                history += [self.store.show(ref) for ref in steps[step].versions]
                self.observer(_phase(at, "kept"))
            else:
                self.observer(at)
                history += self._step(name, recipe, step, data, tuple(history), at)
            self._done += self._step_batches(recipe, data)
            self.observer(_phase(at, "finished", done=self._done))

    def _step(
        self,
        name: str,
        recipe: Recipe,
        step: int,
        data: TaskData,
        history: tuple[Version, ...],
        at: Progress,
    ) -> tuple[Version, ...]:
        started = time.monotonic()
        # By step, not by way: ways that do the same at a step start from the same numbers.
        L.seed_everything(int(json_digest([self.experiment.seed, step])[:8], 16), workers=True, verbose=False)
        make = partial(self._context, name, step, data, history)
        if recipe.init.trains:
            context, registered, scores = self._train(name, recipe, data, make, at)
        else:
            module, _ = self.experiment.make([])
            context, scores = make(AdaptedModel.of(module)), []
            recipe.start(context)
            registered = recipe.end(context, None)
        self.observer(_phase(at, "evaluate", done=self._done))
        answers = recipe.route(context, registered)
        scores += self._measure(name, context).after(step, answers)
        self.store.finish_step(
            self.experiment.name,
            name,
            step,
            task=data.name,
            answers=answers,
            versions=[version.ref for version in registered],
            scores=scores,
            seconds=time.monotonic() - started,
        )
        return registered

    def _train(
        self, name: str, recipe: Recipe, data: TaskData, make: Any, at: Progress
    ) -> tuple[Context, tuple[Version, ...], list[Score]]:
        continual = ContinualAdapter(self.store, data.task, recipe=recipe, context=make)
        starts = StartScores(lambda: self._measure(name, continual.context), recipe, data)
        module, trainer = self.experiment.make([continual, starts, ProgressCallback(self.observer, at)])
        classes = recipe.head.classes(make(AdaptedModel.of(module)))
        classifier = as_classifier(module, "a task sequence")
        trainer.fit(module, self._loader(data, classes, classifier))
        return continual.context, continual.registered, starts.scores

    def _loader(
        self, data: TaskData, classes: Sequence[str], classifier: Classifier
    ) -> DataLoader[tuple[Any, int]]:
        index = {label: position for position, label in enumerate(classes)}
        rows = [(x, index[label]) for x, label in zip(data.train.inputs, data.train.labels, strict=True)]

        def collate(part: list[tuple[Any, int]]) -> dict[str, Tensor]:
            batch: dict[str, Tensor] = classifier.collate([x for x, _ in part])
            return {**batch, "labels": torch.tensor([label for _, label in part])}

        return DataLoader(rows, self.experiment.batch_size, shuffle=True, collate_fn=collate)  # type: ignore[arg-type]

    def _context(
        self, name: str, step: int, data: TaskData, history: tuple[Version, ...], adapted: AdaptedModel
    ) -> Context:
        return Context(
            adapted=adapted,
            store=self.store,
            spec=self.experiment.adapter,
            line=f"{self.experiment.name}.{name}",
            task=data.task,
            step=step,
            seen=self.stream.seen(step),
            history=history,
            run=self.experiment.name,
            data=TrainingData(data.train.inputs, data.train.labels, data.train.digest()),
            batch_size=self.experiment.eval_batch_size,
            cache=self.cache,
        )

    def _measure(self, name: str, context: Context) -> Measure:
        reads = json_digest(self.experiment.identity().get("module"))
        return Measure(context, self.stream, self.experiment.name, name, self.experiment.protocols, reads)


def _phase(at: Progress, phase: Any, **changes: Any) -> Progress:
    return replace(at, phase=phase, **changes)
