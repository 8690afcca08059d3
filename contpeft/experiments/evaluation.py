"""Measuring stored adapters outside of any training run, each cell once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from contpeft.adapters import AdaptedModel, FrozenPrefix, PrefixCache
from contpeft.adapters.fusion import FUSION, FusionAttachment
from contpeft.digest import json_digest
from contpeft.errors import UsageError
from contpeft.experiments.config import Experiment
from contpeft.experiments.examples import Examples
from contpeft.experiments.lending import check_heads, with_head
from contpeft.experiments.task_rows import TaskRows, answerable, rows_of, some_of
from contpeft.spec import AdapterState, BaseModel, Part, Protocol, Score, Single, Version
from contpeft.store import AdapterStore
from contpeft.strategies import Answerer, Features, as_classifier, composition_key
from contpeft.strategies.provisional import provisional

__all__ = ["Evaluation"]

_WAY: Final = "evaluation"
_LOSS: Final = "cross_entropy"

Seen = Callable[[Mapping[str, Tensor], Any], None]
"""Called with the attention of each site of a fusion, and the batch that was read."""


class Evaluation:
    """The tasks and the module of an evaluation file, and what stored adapters answer on them.

    Module and tasks are made once. A score is written to the store, in a run of its own, and one that the
    store has of any run is not measured again.

    Args:
        experiment: what :func:`~contpeft.experiments.config.load_evaluation` returned.
        store: where the versions are.
        rows: at most so many test rows of each task, drawn by the experiment's seed; None for all.
        heads: task name to the version whose head answers it, for versions whose own head does not.

    Attributes:
        tasks: what is measured on, in the order of the stream.
        lessons: training rows of each task, by its name, at most as many.

    Raises:
        ConfigError: if the module cannot be built, or the stream not be made.
        UsageError: if ``rows`` is below 1, or a head is chosen for a task that does not exist.
    """

    def __init__(
        self,
        experiment: Experiment,
        store: AdapterStore,
        *,
        rows: int | None = None,
        heads: Mapping[str, str] | None = None,
    ) -> None:
        torch.set_num_threads(experiment.threads)
        self._experiment = experiment
        self._store = store
        self._heads = dict(heads or {})
        self._guests: dict[str, tuple[Version, AdapterState]] = {}
        self._answered: dict[tuple[str, str], tuple[str, ...]] = {}
        stream = experiment.stream.build(experiment.seed)
        self._scenario = stream.scenario
        self.tasks = tuple(rows_of(data, rows, experiment.seed) for data in stream)
        self.lessons = {data.name: some_of(data.train, rows, experiment.seed) for data in stream}
        check_heads(self._heads, [each.name for each in self.tasks])

    @cached_property
    def _adapted(self) -> AdaptedModel:
        module = self._experiment.make_module()
        as_classifier(module, "an evaluation")
        adapted = AdaptedModel.of(module)
        if self._experiment.prefix_cache is not None:
            FrozenPrefix(adapted, PrefixCache(self._experiment.prefix_cache)).__enter__()
        return adapted

    @cached_property
    def _answerer(self) -> Answerer:
        features = Features(self._adapted, self._experiment.eval_batch_size)
        return Answerer(self._adapted, self._load, features)

    @property
    def seed(self) -> int:
        """What draws rows."""
        return self._experiment.seed

    @property
    def base(self) -> BaseModel:
        """The model everything is measured on."""
        return self._adapted.base

    def resolve(self, ref: str) -> str:
        """Returns the exact name of a version, which must be of this very base.

        Raises:
            NotFoundError: if there is no such version.
            BaseMismatchError: if it was trained on another base model.
        """
        version = self.show(ref)
        self._adapted.check_base(version)
        return version.ref

    def answers(self, ref: str, task: TaskRows) -> Single:
        """Returns what answers a task: the version, and whose head; see :func:`.lending.with_head`.

        Raises:
            SpecError: if no head answers, or several could.
        """
        return with_head(self.show(ref), task.task, self.show, self._heads)

    def labels(self, ref: str, task: TaskRows, protocol: Protocol = "task_aware") -> tuple[str, ...]:
        """Returns the label a version gives each row of a task.

        Args:
            ref: the version, or a guest.
            task: one of :attr:`tasks`.
            protocol: ``"task_aware"``: the answer is one of the task's classes; ``"all_classes"``: one of
                all the classes that the answering head knows.

        Raises:
            SpecError: if no head answers, or several could.
            UsageError: if the protocol is another one.
            BaseMismatchError: if a version was trained on another base model.
        """
        single, among = self.answers(ref, task), answerable(task, protocol)
        key = self._key(single, among)
        if (key, task.digest) not in self._answered:
            labels = tuple(self._answerer.predict(single, task.rows.inputs, task.digest, among))
            self._answered[key, task.digest] = labels
            right = sum(one == other for one, other in zip(labels, task.rows.labels, strict=True))
            self._keep(single, key, task, protocol, task.task.metric, right / len(labels))
        return self._answered[key, task.digest]

    def correct(self, ref: str, task: TaskRows, protocol: Protocol = "task_aware") -> tuple[bool, ...]:
        """Returns whether a version has each row of a task right; see :meth:`labels`."""
        labels = self.labels(ref, task, protocol)
        return tuple(one == other for one, other in zip(labels, task.rows.labels, strict=True))

    def score(self, ref: str, task: TaskRows, protocol: Protocol = "task_aware") -> float:
        """Returns the accuracy of a version on a task, 0 to 1, measured only if the store has none."""
        key = self._key(self.answers(ref, task), answerable(task, protocol))
        known = self._known(key, task, protocol, task.task.metric)
        if known is not None:
            return known
        correct = self.correct(ref, task, protocol)
        return sum(correct) / len(correct)

    def loss(self, ref: str, task: TaskRows) -> float:
        """Returns the mean cross-entropy of a version among the classes of a task, measured only once."""
        single = self.answers(ref, task)
        key = self._key(single, task.task.classes)
        known = self._known(key, task, "task_aware", _LOSS)
        if known is not None:
            return known
        scores, classes = self._answerer.scores(single, task.rows.inputs, task.digest)
        among = [classes.index(label) for label in task.task.classes]
        right = torch.tensor([task.task.classes.index(label) for label in task.rows.labels])
        loss = float(cross_entropy(scores[:, among].double(), right))
        self._keep(single, key, task, "task_aware", _LOSS, loss)
        return loss

    def scores(self, part: Part, rows: Examples) -> tuple[Tensor, tuple[str, ...]]:
        """Returns the scores ``(n, C)`` that a part gives rows, and each column's label; nothing is kept.

        Raises:
            SpecError: if its head does not know its labels.
            BaseMismatchError: if a version was trained on another base model.
        """
        return self._answerer.scores(part, rows.inputs, rows.digest())

    def attention(self, ref: str, rows: Examples, see: Seen) -> None:
        """Lets a fusion read rows, and tells of each batch which of its members the tokens attend to.

        Args:
            ref: the fusion, or a guest.
            rows: what it reads.
            see: called with the weights ``(B, T, N)`` of each site, by its path, and with the batch.

        Raises:
            UsageError: if the version is no fusion.
            BaseMismatchError: if it was trained on another base model.
        """
        version = self.show(ref)
        if version.kind != FUSION:
            raise UsageError(f"{version.ref} is of kind {version.kind!r}; only fusions attend to members")
        with self._adapted.applied(Single(ref), self._load):
            fusion = self._adapted.attachment
            assert isinstance(fusion, FusionAttachment)
            fusion.watch()
            features = Features(self._adapted, self._experiment.eval_batch_size)
            features.visit(rows.inputs, lambda batch: see(fusion.attention(), batch))

    @contextmanager
    def guest(self, state: AdapterState, parents: tuple[str, ...]) -> Iterator[str]:
        """Lets an adapter that is not stored be measured inside the block, by the name this yields.

        It is measured as if it were stored: registered later, its scores are known.

        Args:
            state: the adapter.
            parents: references of what it was made from, whose heads may answer for it.
        """
        version = provisional(state, parents, self.base)
        self._guests[version.ref] = version, state
        try:
            yield version.ref
        finally:
            self._guests.pop(version.ref, None)

    def show(self, ref: str) -> Version:
        """Returns the catalogue entry of a version, or what a guest's would be."""
        return self._guests[ref][0] if ref in self._guests else self._store.show(ref)

    def _load(self, ref: str) -> tuple[Version, AdapterState]:
        return self._guests[ref] if ref in self._guests else (self._store.show(ref), self._store.load(ref))

    @cached_property
    def reads(self) -> str:
        """Names how raw inputs are read."""
        return self._experiment.reads()

    def _key(self, single: Single, among: tuple[str, ...] | None) -> str:
        return composition_key(single, self.base, self.show, f"{self.reads}{among}")

    def _known(self, key: str, task: TaskRows, protocol: Protocol, metric: str) -> float | None:
        score = self._store.cached_score(composition=key, data=task.digest, protocol=protocol, metric=metric)
        return None if score is None else score.value

    def _keep(
        self, single: Single, key: str, task: TaskRows, protocol: Protocol, metric: str, value: float
    ) -> None:
        """Writes what was just measured, unless the store has it."""
        if self._known(key, task, protocol, metric) is not None:
            return
        score = Score(
            run=self.run,
            way=_WAY,
            answer=f"{single}#{key[:8]}",  # a name may come to mean another version
            step=len(self.tasks) - 1,
            task=task.name,
            protocol=protocol,
            metric=metric,
            value=value,
            n=len(task.rows),
            composition=key,
            data=task.digest,
        )
        self._store.add_scores([score])

    @cached_property
    def run(self) -> str:
        """The run that holds these scores; equal evaluations share it."""
        config = {
            "module": self._experiment.identity().get("module"),
            "base": self.base.fingerprint,
            "rows": [[each.name, list(each.task.classes), each.digest] for each in self.tasks],
            "scenario": self._scenario,
        }
        name = f"{_WAY}-{json_digest(config)[:12]}"
        tasks = [each.task for each in self.tasks]
        self._store.start_run(name, config=config, seed=0, tasks=tasks, scenario=self._scenario)
        self._store.finish_run(name, "finished")
        return name
