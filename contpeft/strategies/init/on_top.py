"""Init: a new adapter per task over all earlier ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from contpeft.spec import Parent, Part, Single, Stack, Sum, Version
from contpeft.strategies.context import Context
from contpeft.strategies.init.fresh import Fresh

__all__ = ["OnTop", "stack_of"]


@dataclass(frozen=True)
class OnTop(Fresh):
    """A new adapter per task over all earlier ones, which compute with it and stay as they are."""

    def start(self, context: Context) -> tuple[Parent, ...]:
        """Attaches a fresh adapter over the earlier tasks', of which it is made; alone at the first task."""
        below = context.adapters
        if not below:
            return super().start(context)
        context.adapted.attach_over(stack_of(below), context.load, context.spec)
        return tuple(Parent(version.ref, "frozen") for version in below)


def stack_of(versions: Sequence[Version]) -> Part:
    """Returns versions one over the other, the first lowest; adapters of LoRA are added up exactly."""
    if all(version.kind == "lora" for version in versions):
        return Sum(tuple((version.ref, 1.0) for version in versions), versions[-1].ref)
    return Stack(tuple(Single(version.ref) for version in versions))
