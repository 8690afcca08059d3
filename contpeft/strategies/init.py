"""Parts: how a task's adapter starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from contpeft.spec import Parent, Part, Single, Stack, Sum, Version
from contpeft.strategies.context import Context

__all__ = ["Fresh", "FromLast", "NoAdapter", "OnTop", "stack_of"]


@dataclass(frozen=True)
class Fresh:
    """A new adapter per task, each under a name of its own; attaching it changes no output."""

    @property
    def trains(self) -> bool:
        """There is an adapter to train."""
        return True

    def name(self, context: Context) -> str:
        """Returns ``line.task``, or the task's name alone outside a sequence."""
        return f"{context.line}.{context.task.name}" if context.line else context.task.name

    def start(self, context: Context) -> tuple[Parent, ...]:
        """Attaches a fresh adapter; it has no parents."""
        context.adapted.attach(context.spec)
        return ()


@dataclass(frozen=True)
class FromLast:
    """The adapter of the task before is trained on: one name, a new version per task."""

    @property
    def trains(self) -> bool:
        """There is an adapter to train."""
        return True

    def name(self, context: Context) -> str:
        """Returns the line's name, the same for every task."""
        return context.line or context.task.name

    def start(self, context: Context) -> tuple[Parent, ...]:
        """Attaches the last version, checked against the base; a fresh adapter at the first task."""
        if context.previous is None:
            context.adapted.attach(context.spec)
            return ()
        version, state = context.previous
        context.adapted.check_base(version)
        context.adapted.attach_state(state, context.spec)
        return (Parent(version.ref, "continued"),)


@dataclass(frozen=True)
class OnTop(Fresh):
    """A new adapter per task over all earlier ones, which compute with it and stay as they are."""

    def start(self, context: Context) -> tuple[Parent, ...]:
        """Attaches a fresh adapter over the earlier tasks', of which it is made; alone at the first task."""
        below = [version for version in context.history if version.kind != "statistics"]
        if not below:
            return super().start(context)
        context.adapted.attach_over(stack_of(below), context.load, context.spec)
        return tuple(Parent(version.ref, "frozen") for version in below)


def stack_of(versions: Sequence[Version]) -> Part:
    """Returns versions one over the other, the first lowest; adapters of LoRA are added up exactly."""
    if all(version.kind == "lora" for version in versions):
        return Sum(tuple((version.ref, 1.0) for version in versions), versions[-1].ref)
    return Stack(tuple(Single(version.ref) for version in versions))


@dataclass(frozen=True)
class NoAdapter:
    """The base stays as it is."""

    @property
    def trains(self) -> bool:
        """There is nothing to train."""
        return False

    def name(self, context: Context) -> str:
        """Returns the line's name."""
        return context.line

    def start(self, context: Context) -> tuple[Parent, ...]:
        """Attaches nothing."""
        return ()
