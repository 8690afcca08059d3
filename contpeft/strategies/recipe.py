"""A strategy is a recipe of six parts; five hooks carry them all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from contpeft.spec import Composition, Version
from contpeft.strategies.answers import Latest
from contpeft.strategies.consolidate import Freeze
from contpeft.strategies.context import Context
from contpeft.strategies.head import Own
from contpeft.strategies.init import Fresh
from contpeft.strategies.parts import Answers, Consolidate, Head, Init, Penalty, Projection

__all__ = ["Recipe"]


@dataclass(frozen=True)
class Recipe:
    """What is done before, during and after each task so that earlier ones survive.

    The default learns a fresh adapter per task with the module's own head.

    Attributes:
        init: how the task's adapter starts.
        head: how its head starts.
        penalty: a term added to the loss, or None.
        projection: a correction of each applied update, or None.
        consolidate: what happens once the task is learnt.
        answers: which compositions answer afterwards.
        joint: all tasks are learnt at once, in one step (the usual upper bound).
    """

    init: Init = field(default_factory=Fresh)
    head: Head = field(default_factory=Own)
    penalty: Penalty | None = None
    projection: Projection | None = None
    consolidate: Consolidate = field(default_factory=Freeze)
    answers: Answers = field(default_factory=Latest)
    joint: bool = False

    def start(self, context: Context) -> None:
        """Attaches the adapter and puts the head in place."""
        context.parents = self.init.start(context)
        self.head.start(context)

    def loss(self, context: Context, batch: Any, outputs: Any) -> Tensor | None:
        """Returns what is added to the loss of ``batch``, or None."""
        return None if self.penalty is None else self.penalty.loss(context, batch, outputs)

    def project(self, context: Context, before: Mapping[str, Tensor]) -> None:
        """Corrects the update just applied to the trainable parameters."""
        if self.projection is not None:
            self.projection.project(context, before)

    def end(self, context: Context, trained: Version | None) -> tuple[Version, ...]:
        """Consolidates; returns every version registered for this task, the adapter first."""
        adapter = () if trained is None else (trained,)
        return (*adapter, *self.consolidate.end(context, trained))

    def route(self, context: Context, registered: tuple[Version, ...]) -> dict[str, Composition]:
        """Returns the compositions that answer after this task, the main one first."""
        return self.answers.route(context, registered)
