"""What parts that gather statistics of features have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from contpeft.adapters import LeftOut
from contpeft.spec import AdapterState, HeadSpec, Parent, Version, View
from contpeft.strategies.context import Context, TrainingData
from contpeft.strategies.over import Over, sources, told_json

__all__ = ["Expert", "Gathering", "OverNamed", "Taken"]


@dataclass(frozen=True)
class Taken:
    """Statistics that a task was added to, and that are not registered yet.

    Attributes:
        left_out: says what they tell of the task's rows, each left out of them.
        register: registers them with a temperature.
    """

    left_out: Callable[[], LeftOut]
    register: Callable[[float], Version]


class Expert(Protocol):
    """A part whose statistics can answer together with others."""

    def take(self, context: Context, trained: Version | None) -> Taken:
        """Adds the task to the statistics.

        Args:
            context: the task at hand.
            trained: the adapter just registered, or None when nothing was trained.
        """
        ...


@dataclass(frozen=True)
class Gathering(ABC):
    """Statistics of features, kept as versions that go on from task to task."""

    @abstractmethod
    def parts(self, context: Context) -> tuple[View, ...]:
        """Returns what computes the features."""

    def data(self, context: Context) -> TrainingData:
        """Returns the task's examples.

        Raises:
            UnsupportedError: if the caller gave none.
        """
        return context.training_data("gathering class statistics")

    def told(self, context: Context) -> list[dict[str, Any]]:
        """Returns the same as a version names it."""
        return told_json(self.parts(context))

    def features(self, context: Context) -> Tensor:
        """Returns the task's features ``(n, d)``."""
        data = self.data(context)
        return context.features.through(self.parts(context), context.load, data.inputs, data.digest)

    def last(self, context: Context, rule: str) -> tuple[HeadSpec, dict[str, Tensor]] | None:
        """Returns what was gathered before; None at the first task.

        Raises:
            BaseMismatchError: if it was on another base model.
        """
        version = self._version(context, rule)
        if version is None or version.head is None:
            return None
        context.adapted.check_base(version)
        return version.head, context.store.load(version.ref).head_tensors()

    def register(self, context: Context, rule: str, tensors: Mapping[str, Tensor], spec: HeadSpec) -> Version:
        """Registers statistics under a rule, as the next version of those gathered before."""
        last = self._version(context, rule)
        kept = {AdapterState.HEAD_PREFIX + name: tensor for name, tensor in tensors.items()}
        frozen = tuple(Parent(ref, "frozen") for part in self.parts(context) for ref in part.refs())
        return context.store.register(
            self._name(context, rule),
            AdapterState("statistics", {}, kept, spec),
            base=context.adapted.base,
            parents=(*(() if last is None else (Parent(last.ref, "continued"),)), *frozen),
            run=context.run,
            task=context.task.name,
            data=self.data(context).digest,
        )

    def _version(self, context: Context, rule: str) -> Version | None:
        name = self._name(context, rule)
        return next((v for v in reversed(context.history) if v.name == name), None)

    def _name(self, context: Context, rule: str) -> str:
        own = self.called(rule)
        return f"{context.line}.{own}" if context.line else own

    def called(self, rule: str) -> str:
        """Returns what the statistics of a rule are called within the line."""
        return rule


@dataclass(frozen=True)
class OverNamed(Gathering):
    """Statistics of features that are named by whose they are.

    Attributes:
        over: whose features; ``"first"`` and ``"last"`` for those tasks' adapters, with ``"+base"`` beside
            the bare base's. What is trained on moves its features: see :class:`FollowStatistics`.
        layers: of how many layers, from the top.
    """

    over: Over = field(default="base", kw_only=True)
    layers: int = field(default=1, kw_only=True)

    def parts(self, context: Context) -> tuple[View, ...]:
        """Returns what computes the features."""
        return sources(self.over, context.adapters_with(context.registered), self.layers)

    def called(self, rule: str) -> str:
        """Returns the rule, and whose features where they are not those of the base's last layer."""
        whose = "" if self.over == "base" else f"-{self.over.replace('+', '-and-')}"
        return f"{rule}{whose}" if self.layers == 1 else f"{rule}{whose}-{self.layers}-layers"
