"""The six kinds of part a recipe is made of, as interfaces.

A part is a small final class in a file of its own. It keeps no state, so that every recipe resumes: what
it must remember between tasks is a stored version (``context.remember``, ``context.recall``), what it sums
up within one fit are named tensors that checkpoints keep (``context.working``), and what can be made again
at any time is made once (``context.once``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from contpeft.spec import Composition, Parent, Version
from contpeft.strategies.context import Context

__all__ = ["Answers", "Checked", "Consolidate", "Head", "Init", "Penalty", "Projection"]


class Init(Protocol):
    """How a task's adapter starts."""

    def trains(self, step: int) -> bool:
        """Returns whether there is anything to train for the stream's task number ``step``, from 0."""
        ...

    def name(self, context: Context) -> str:
        """Returns the name the task's version is registered under."""
        ...

    def start(self, context: Context) -> tuple[Parent, ...]:
        """Attaches the adapter; returns the versions it was made from."""
        ...


class Head(Protocol):
    """How a task's classifier head starts."""

    def classes(self, context: Context) -> tuple[str, ...]:
        """Returns the labels of the outputs while this task is learnt."""
        ...

    def start(self, context: Context) -> None:
        """Puts the head in place; the adapter is attached already."""
        ...


class Penalty(Protocol):
    """A term added to the loss of every batch."""

    def loss(self, context: Context, batch: Any, outputs: Any) -> Tensor | None:
        """Returns a scalar to add to what ``training_step`` returned for ``batch``; None for nothing.

        ``context.tap`` has the features and scores that the head has just computed.
        """
        ...


class Projection(Protocol):
    """A correction of the update the optimizer has just applied."""

    def project(self, context: Context, before: Mapping[str, Tensor]) -> None:
        """Changes the trainable parameters in place.

        Args:
            context: the task at hand.
            before: value of each trainable parameter before the optimizer's step, by name. The
                *applied update* is projected, not the gradient: under Adam a projected gradient
                is not a projected update. Gradients are still there.
        """
        ...


class Consolidate(Protocol):
    """What happens once a task is learnt."""

    def end(self, context: Context, trained: Version | None) -> tuple[Version, ...]:
        """Registers what the way needs later; returns those versions.

        Args:
            context: the task at hand; the model still holds the trained adapter.
            trained: the adapter just registered, or None when nothing was trained.
        """
        ...


class Answers(Protocol):
    """Which compositions answer after a task, the way's main one first."""

    def route(self, context: Context, registered: tuple[Version, ...]) -> dict[str, Composition]:
        """Returns compositions by name.

        Args:
            context: the task at hand.
            registered: versions registered for this task.
        """
        ...


@runtime_checkable
class Checked(Protocol):
    """What a part of any kind may have beside: it is asked before training, not once all of that is done."""

    def check(self, context: Context) -> None:
        """Raises what the part would raise after training; adapter and head are in place."""
        ...
