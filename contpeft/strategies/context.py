"""What the parts of a recipe may see and change while one task is learnt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from contpeft.adapters import AdaptedModel, AnySpec
from contpeft.errors import UnsupportedError
from contpeft.spec import AdapterState, Parent, Task, Version
from contpeft.store import AdapterStore
from contpeft.strategies.features import FeatureCache, Features

__all__ = ["Context", "TrainingData"]


@dataclass(frozen=True)
class TrainingData:
    """The training examples of a task, for parts that make statistics of them.

    Attributes:
        inputs: raw inputs as the module's ``collate`` takes them.
        labels: their label names.
        digest: their content digest.
    """

    inputs: Sequence[Any]
    labels: Sequence[str]
    digest: str

    def rows(self, label: str) -> list[int]:
        """Returns the row numbers of one label."""
        return [row for row, each in enumerate(self.labels) if each == label]


@dataclass
class Context:
    """One task of one way through a stream.

    Attributes:
        adapted: the model.
        store: where versions live.
        spec: how a fresh adapter is made.
        line: what the way's adapters are named after.
        task: the task at hand.
        step: its index in the stream, from 0.
        seen: labels of all tasks so far, this one included, in stream order.
        history: versions registered by the way's earlier steps, oldest first.
        run: id of the run, or None outside a sequence.
        data: training examples, or None when the caller gave none.
        parents: what the task's adapter was made from; set once it is attached.
        batch_size: rows at a time when features are computed.
        cache: base features shared between tasks.
    """

    adapted: AdaptedModel
    store: AdapterStore
    spec: AnySpec
    line: str
    task: Task
    step: int = 0
    seen: tuple[str, ...] = ()
    history: tuple[Version, ...] = ()
    run: str | None = None
    data: TrainingData | None = None
    parents: tuple[Parent, ...] = ()
    batch_size: int = 32
    cache: FeatureCache = field(default_factory=dict)

    @cached_property
    def features(self) -> Features:
        """Features of raw inputs."""
        return Features(self.adapted, self.batch_size, self.cache)

    @cached_property
    def previous(self) -> tuple[Version, AdapterState] | None:
        """The last adapter this way trained, with its weights; None before the first."""
        trained = [version for version in self.history if version.kind != "statistics"]
        return (trained[-1], self.store.load(trained[-1].ref)) if trained else None

    def load(self, ref: str) -> tuple[Version, AdapterState]:
        """Returns a version's entry and weights."""
        return self.store.show(ref), self.store.load(ref)

    def training_data(self, part: str) -> TrainingData:
        """Returns the task's examples.

        Raises:
            UnsupportedError: if the caller gave none, naming the part that needs them.
        """
        if self.data is None:
            raise UnsupportedError(
                f"{part} needs the task's training examples; pass data=TrainingData(...), "
                "or use a recipe whose head is the module's own"
            )
        return self.data

    def class_means(self, labels: Sequence[str], part: str) -> Tensor:
        """Returns the mean unit-length feature ``(len(labels), d)`` of each label, model as it stands.

        Raises:
            UnsupportedError: if the caller gave no examples, or none of some label.
        """
        data = self.training_data(part)
        lacking = sorted(set(labels) - set(data.labels))
        if lacking:
            raise UnsupportedError(
                f"{part} needs training examples of every label of task {self.task.name!r}; "
                f"there are none of: {', '.join(lacking)}"
            )
        unit = F.normalize(self.features.current(data.inputs, data.digest), dim=1)
        return torch.stack([unit[data.rows(each)].mean(0) for each in labels])
