"""Runs a sequence of tasks, one way after another, and goes on where it was stopped.

The store is the memory: a step is done when one transaction has written its scores and what
answers after it. Whatever a step needs from earlier ones it reads from the store, in a straight
run too, so a resumed run takes the same path: same seeds, same tensors, same scores.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from contpeft.adapters import AdaptedModel, FrozenPrefix, PrefixCache
from contpeft.callbacks import ContinualAdapter
from contpeft.callbacks.repeats import Repeats
from contpeft.digest import json_digest
from contpeft.errors import ConfigError
from contpeft.experiments.config import Experiment
from contpeft.experiments.gate_drift import GateHistory
from contpeft.experiments.measure import Measure, StartScores
from contpeft.experiments.progress import Observer, Progress, ProgressCallback
from contpeft.experiments.tasks import TaskData
from contpeft.spec import Score, Version
from contpeft.store import AdapterStore, Run, Status, Step
from contpeft.strategies import (
    Classifier,
    Context,
    FeatureCache,
    Recipe,
    TrainingData,
    as_classifier,
    recipe_digest,
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
        ConfigError: if a run of this name has other settings or other data.
        ContpeftError: whatever stops the run; the store then calls it failed, or interrupted, and
            the same call goes on at the first unfinished step.
    """
    return _Sequence(experiment, observer or (lambda _progress: None)).run()


@dataclass(frozen=True)
class _Task:
    """One task learnt one way: index in the stream, what is learnt, and what was registered before.

    Of a recipe of several stages it is one of them; what the stages before have registered is history, too.
    """

    way: str
    recipe: Recipe
    index: int
    data: TaskData
    history: tuple[Version, ...]
    progress: Progress
    stage: int = 0


@dataclass(frozen=True)
class _Learnt:
    """What came of one stage of a step.

    Attributes:
        context: the task at hand, the model with it.
        versions: what was registered.
        scores: what was measured before training.
        fits: the adapter that was trained, by what the fit depended on.
        spared: seconds of training that an equal fit had spent before.
    """

    context: Context
    versions: tuple[Version, ...]
    scores: Sequence[Score] = ()
    fits: Mapping[str, str] = field(default_factory=dict)
    spared: float = 0.0


class _Sequence:
    """One experiment on its way through its stream."""

    def __init__(self, experiment: Experiment, observer: Observer) -> None:
        torch.set_num_threads(experiment.threads)
        self._experiment = experiment
        self._observer = observer
        self._stream = experiment.stream.build(experiment.seed)
        self._reads = experiment.reads()
        self._store = AdapterStore(experiment.store)
        self._features = FeatureCache()
        size = experiment.prefix_cache
        self._prefix_cache = None if size is None else PrefixCache(size)
        self._done = 0
        self._fits: dict[str, str] = {}
        self._scored: dict[Any, Any] = {}
        for way, recipe in experiment.recipes.items():
            recipe.check_serves(self._stream.scenario, way)
        self._total = sum(
            self._batches(recipe, step, data)
            for recipe in experiment.recipes.values()
            for step, data in self._tasks(recipe)
        )

    def run(self) -> Run:
        """Runs every way; the store learns how it ended."""
        name = self._experiment.name
        self._store.start_run(
            name,
            config=self._experiment.identity() | {"data": self._stream.digest()},
            seed=self._experiment.seed,
            tasks=[data.task for data in self._stream],
            scenario=self._stream.scenario,
        )
        self._fits = {key: ref for step in self._store.steps(name) for key, ref in _fits_of(step).items()}
        status: Status = "interrupted"
        try:
            for way, recipe in self._experiment.recipes.items():
                self._run_way(way, recipe)
            status = "finished"
        except Exception:
            status = "failed"
            raise
        finally:
            self._store.finish_run(name, status)
        return self._store.run(name)

    def _tasks(self, recipe: Recipe) -> list[tuple[int, TaskData]]:
        """Returns the tasks a way learns, each with its step: all at once, or one by one."""
        if recipe.joint:
            return [(len(self._stream) - 1, self._stream.union())]
        return list(enumerate(self._stream))

    def _batches(self, recipe: Recipe, step: int, data: TaskData) -> int:
        batches = math.ceil(len(data.train) / self._experiment.batch_size)
        trained = sum(stage.init.trains(step) for stage in recipe.stages(step))
        return self._experiment.max_epochs * batches * trained

    def _run_way(self, way: str, recipe: Recipe) -> None:
        finished = {step.step: step for step in self._store.steps(self._experiment.name, way)}
        self._check_same(way, recipe, finished.values())
        self._scored.clear()
        history: tuple[Version, ...] = ()
        tasks = self._tasks(recipe)
        for place, (index, data) in enumerate(tasks):
            at = Progress(way, place, len(tasks), data.name, "start", done=self._done, total=self._total)
            if index in finished:
                history += tuple(map(self._store.show, finished[index].versions))
            else:
                self._observer(at)
                history += self._run_step(_Task(way, recipe, index, data, history, at))
                # Module, trainer and callbacks refer to each other: without this, base models pile up.
                gc.collect()
            self._done += self._batches(recipe, index, data)
            self._observer(replace(at, phase="kept" if index in finished else "finished", done=self._done))

    def _check_same(self, way: str, recipe: Recipe, finished: Iterable[Step]) -> None:
        """Refuses to go on with a way whose recipe has become another one."""
        told = {str(step.detail["recipe"]) for step in finished if "recipe" in step.detail}
        if told - {recipe_digest(recipe)}:
            raise ConfigError(
                f"way {way!r} of run {self._experiment.name!r} was begun with another recipe; "
                "give the changed one another name"
            )

    def _run_step(self, step: _Task) -> tuple[Version, ...]:
        """Learns one task, measures, and writes it all down; returns what was registered."""
        started = time.monotonic()
        learnt: list[_Learnt] = []
        for stage in self._stages(step):
            learn = self._train if stage.recipe.init.trains(stage.index) else self._observe
            made = tuple(version for each in learnt for version in each.versions)
            own = replace(stage, history=step.history + made)
            learnt.append(learn(own))
        self._observer(replace(step.progress, phase="evaluate"))
        context = learnt[-1].context
        with self._skipping(context.adapted):
            answers = own.recipe.route(context, learnt[-1].versions)
            measure = self._measure(step.way, context)
            finished = self._store.steps(self._experiment.name, step.way)
            gates = GateHistory.of(finished, step.index, answers)
            ends = measure.after(step.index, answers)
            ends += gates.scores(measure, ends)
            drift = gates.drift(measure)
        registered = tuple(version for each in learnt for version in each.versions)
        fits = {key: ref for each in learnt for key, ref in each.fits.items()}
        self._store.finish_step(
            self._experiment.name,
            step.way,
            step.index,
            task=step.data.name,
            answers=answers,
            versions=[version.ref for version in registered],
            scores=[*(score for each in learnt for score in each.scores), *ends],
            seconds=time.monotonic() - started + sum(each.spared for each in learnt),
            detail={"recipe": recipe_digest(step.recipe), "fits": fits}
            | ({"gate_drift": drift} if drift else {}),
        )
        self._fits |= fits
        return registered

    def _stages(self, step: _Task) -> list[_Task]:
        """Returns the step once for each stage, which goes on counting batches where the last one ends."""
        stages, done = [], step.progress.done
        for number, recipe in enumerate(step.recipe.stages(step.index)):
            stages.append(
                replace(step, recipe=recipe, stage=number, progress=replace(step.progress, done=done))
            )
            done += self._batches(recipe, step.index, step.data)
        return stages

    def _observe(self, step: _Task) -> _Learnt:
        """Lets a recipe that trains nothing look at the task."""
        module, _ = self._fresh(step, [])
        context = self._context(step, AdaptedModel.of(module))
        with self._skipping(context.adapted):
            step.recipe.start(context)
            return _Learnt(context, step.recipe.end(context, None))

    def _skipping(self, adapted: AdaptedModel) -> AbstractContextManager[Any]:
        """Returns the block in which layers that no adapter changes compute each row once."""
        return nullcontext() if self._prefix_cache is None else FrozenPrefix(adapted, self._prefix_cache)

    def _train(self, step: _Task) -> _Learnt:
        """Trains an adapter for the task, with a fresh trainer, or takes that of an equal fit."""
        repeats = Repeats(self._fits)
        continual = ContinualAdapter(
            self._store,
            step.data.task,
            recipe=step.recipe,
            prefix_cache=self._prefix_cache,
            context=lambda adapted: self._context(step, adapted),
            repeats=repeats,
        )
        starts = StartScores(lambda: self._measure(step.way, continual.context), step.recipe, step.data)
        watch = ProgressCallback(self._observer, step.progress)
        first: list[L.Callback] = [] if step.stage else [starts]  # what comes later has seen the task
        module, trainer = self._fresh(step, [continual, *first, watch])
        classes = step.recipe.head.classes(self._context(step, AdaptedModel.of(module)))
        loader = self._loader(step.data, classes, as_classifier(module, "a task sequence"))
        try:
            trainer.fit(module, loader)
        except SystemExit as error:
            if trainer.interrupted:  # Lightning has made an ordinary exit of the Ctrl-C
                raise KeyboardInterrupt from error
            raise
        made = continual.registered
        fits = {} if repeats.key is None else {repeats.key: made[0].ref}
        spared = 0.0 if repeats.same is None else repeats.same.seconds or 0.0
        return _Learnt(continual.context, made, starts.scores, fits, spared)

    def _fresh(self, step: _Task, callbacks: list[L.Callback]) -> tuple[L.LightningModule, L.Trainer]:
        """Returns a module and a trainer, with the random generators set for the step.

        The module is built from the run's seed, so that weights its checkpoint lacks are the same
        in every step; training goes by the step, not by the way, so that ways that do the same at
        a step do it with the same numbers.
        """
        seed = self._experiment.seed
        L.seed_everything(seed, workers=True, verbose=False)
        made = self._experiment.make(callbacks)
        L.seed_everything(self._drawn(step.index), workers=True, verbose=False)
        return made

    def _drawn(self, index: int) -> int:
        """Returns the seed of a step."""
        return int(json_digest([self._experiment.seed, index])[:8], 16)

    def _loader(
        self, data: TaskData, classes: Sequence[str], classifier: Classifier
    ) -> DataLoader[tuple[Any, int]]:
        index = {label: position for position, label in enumerate(classes)}
        rows = [(x, index[label]) for x, label in zip(data.train.inputs, data.train.labels, strict=True)]

        def collate(part: list[tuple[Any, int]]) -> dict[str, Tensor]:
            batch: dict[str, Tensor] = classifier.collate([x for x, _ in part])
            return {**batch, "labels": torch.tensor([label for _, label in part])}

        return DataLoader(rows, self._experiment.batch_size, shuffle=True, collate_fn=collate)  # type: ignore[arg-type]

    def _context(self, step: _Task, adapted: AdaptedModel) -> Context:
        train = step.data.train
        return Context(
            adapted=adapted,
            store=self._store,
            spec=self._experiment.adapter,
            line=f"{self._experiment.name}.{step.way}",
            task=step.data.task,
            step=step.index,
            seen=self._stream.seen(step.index),
            history=step.history,
            run=self._experiment.name,
            data=TrainingData(train.inputs, train.labels, train.digest()),
            seed=self._drawn(step.index),
            batch_size=self._experiment.eval_batch_size,
            cache=self._features,
        )

    def _measure(self, way: str, context: Context) -> Measure:
        experiment, kept = self._experiment, self._scored
        return Measure(context, self._stream, experiment.name, way, experiment.protocols, self._reads, kept)


def _fits_of(step: Step) -> Mapping[str, str]:
    """Returns the adapters a step has trained, by what their fits depended on."""
    fits: Mapping[str, str] = step.detail.get("fits", {})
    return fits
