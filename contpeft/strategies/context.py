"""What the parts of a recipe may see and change while one task is learnt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from contpeft.adapters import AdaptedModel, AnySpec, LiveFactors, head_state, live_factors
from contpeft.errors import UnsupportedError
from contpeft.spec import AdapterState, Parent, Task, Version
from contpeft.store import AdapterStore
from contpeft.strategies.feature_cache import FeatureCache
from contpeft.strategies.features import Features

__all__ = ["Context", "Steps", "Tap", "TrainingData"]

T = TypeVar("T")


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
class Tap:
    """What the head has just read and said; see :meth:`Context.listening`.

    Attributes:
        features: ``(B, d)``, as the head got them; None before it was asked.
        scores: ``(B, C)``.
    """

    features: Tensor | None = None
    scores: Tensor | None = None

    def take(self, head: nn.Module, read: tuple[Any, ...], said: Any) -> None:
        """Is the forward hook."""
        self.features, self.scores = read[0], said


@dataclass
class Steps:
    """How far the fit is.

    Attributes:
        done: optimizer steps taken.
        planned: how many there will be; None if the fit has no planned end.
    """

    done: int = 0
    planned: int | None = None


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
        seed: of whatever a part draws for this task.
        parents: what the task's adapter was made from; set once it is attached.
        registered: versions registered for this task so far, the adapter first.
        batch_size: rows at a time when features are computed.
        cache: features kept, shared between tasks.
        steps: how far the fit is.
        tap: what the head has just read and said.
        working: what parts sum up within the fit, by name; checkpoints keep it.
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
    seed: int = 0
    parents: tuple[Parent, ...] = ()
    registered: tuple[Version, ...] = ()
    batch_size: int = 32
    cache: FeatureCache = field(default_factory=FeatureCache)
    steps: Steps = field(default_factory=Steps)
    tap: Tap = field(default_factory=Tap)
    working: dict[str, Tensor] = field(default_factory=dict)
    _made: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def features(self) -> Features:
        """Features of raw inputs."""
        return Features(self.adapted, self.batch_size, self.cache)

    @property
    def adapters(self) -> tuple[Version, ...]:
        """What this way's earlier steps trained, oldest first, as they left it.

        What has a recipe was made of that: under the name of what it continues it takes its place (another
        head), else it is no further adapter (a merge, an average).
        """
        return self.adapters_with(())

    def adapters_with(self, registered: Sequence[Version]) -> tuple[Version, ...]:
        """Returns the same with what was registered just now."""
        found: list[Version] = []
        for version in (*self.history, *registered):
            if version.adapts and version.recipe is None:
                found.append(version)
            elif found and _in_place_of(version, found[-1]):
                found[-1] = version
        return tuple(found)

    @cached_property
    def previous(self) -> tuple[Version, AdapterState] | None:
        """The last adapter this way trained, with its weights; None before the first."""
        return self.load(self.adapters[-1].ref) if self.adapters else None

    def load(self, ref: str) -> tuple[Version, AdapterState]:
        """Returns a version's entry and weights."""
        return self.store.show(ref), self.store.load(ref)

    # --- the adapter at hand ----------------------------------------------------------------------

    @cached_property
    def own_parameters(self) -> dict[str, nn.Parameter]:
        """The adapter's parameters that are trained, the head's left out, by their names in the module."""
        attached = self.adapted.attachment
        own = set() if attached is None else {id(p) for p in attached.trainable()}
        return {name: p for name, p in self.adapted.module.named_parameters() if id(p) in own}

    def attached(self, kind: type[T], part: str, on: str, init: str) -> T:
        """Returns the adapter at hand where it has to be of one kind.

        Args:
            kind: the kind.
            part: who asks, for the message.
            on: what that works on.
            init: the part that attaches such an adapter.

        Raises:
            UnsupportedError: if there is none, or one of another kind.
        """
        found = self.adapted.attachment
        if not isinstance(found, kind):
            there = "nothing" if found is None else f"an adapter of method {found.kind!r}"
            raise UnsupportedError(f"{part} works on {on}, {there} is attached; give init={init}(...)")
        return found

    def factors(self, part: str) -> dict[str, LiveFactors]:
        """Returns the two factors of every update of the LoRA adapter at hand, by module; made once.

        Raises:
            UnsupportedError: if it is of another method, naming the part that asks.
        """
        attached = self.adapted.attachment
        if attached is None:
            raise UnsupportedError(f"{part} works on the factors of LoRA adapters; none is attached")
        return self.once("factors", lambda: live_factors(attached, part))

    def state(self, classes: tuple[str, ...] = ()) -> AdapterState:
        """Returns the adapter and head as they are now; the head alone where there is no adapter."""
        if self.adapted.attachment is None and self.adapted.head is not None:
            return head_state(self.adapted.head, classes)
        return self.adapted.state(classes)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Lets :attr:`tap` take what the head in place reads and says inside the block."""
        if self.adapted.head is None:
            yield
            return
        handle = self.adapted.head.register_forward_hook(self.tap.take)
        try:
            yield
        finally:
            handle.remove()

    @contextmanager
    def unheard(self) -> Iterator[None]:
        """Leaves :attr:`tap` as it is, whatever the head is asked inside the block."""
        heard = replace(self.tap)
        try:
            yield
        finally:
            self.tap.features, self.tap.scores = heard.features, heard.scores

    # --- what parts keep ---------------------------------------------------------------------------

    def once(self, name: str, make: Callable[[], T]) -> T:
        """Returns what ``make`` returns, called at the first time for this name and this fit only."""
        if name not in self._made:
            self._made[name] = make()
        made: T = self._made[name]
        return made

    def remember(self, part: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Version:
        """Registers what a part must know at later tasks, as the next version of ``line.part``.

        Args:
            part: names it; one name for each thing that is remembered.
            tensors: its tensors.
            facts: its primitives.

        Returns:
            The version, which the part returns from ``end``.
        """
        last = self.last(part)
        kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        return self.store.register(
            self.name_of(part),
            AdapterState("memory", {"part": part, **facts}, kept),
            base=self.adapted.base,
            parents=() if last is None else (Parent(last.ref, "continued"),),
            run=self.run,
            task=self.task.name,
            data=self.data.digest if self.data else None,
        )

    def recall(self, part: str) -> AdapterState | None:
        """Returns what a part remembered last; None if it has not yet."""
        last = self.last(part)
        return None if last is None else self.once(f"memory of {last.ref}", lambda: self.store.load(last.ref))

    def last(self, part: str = "") -> Version | None:
        """Returns the newest version of ``line.part``, of the line itself without a part; None if none is."""
        known = (*self.history, *self.registered)
        return next((v for v in reversed(known) if v.name == self.name_of(part)), None)

    def name_of(self, part: str = "") -> str:
        """Returns the name of what is registered for a part; without one the name of the line."""
        line = self.line or self.task.name
        return f"{line}.{part}" if part else line

    # --- the task's data ---------------------------------------------------------------------------

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


def _in_place_of(made: Version, trained: Version) -> bool:
    return made.name == trained.name and Parent(trained.ref, "continued") in made.parents
