"""Init: no adapter at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from contpeft.spec import Parent
from contpeft.strategies.about import About
from contpeft.strategies.context import Context
from contpeft.strategies.init.fresh import Fresh

__all__ = ["HeadOnly", "NoAdapter"]


@dataclass(frozen=True)
class NoAdapter:
    """The base stays as it is."""

    def trains(self, step: int) -> bool:
        """There is nothing to train."""
        return False

    def name(self, context: Context) -> str:
        """Returns the line's name."""
        return context.line

    def start(self, context: Context) -> tuple[Parent, ...]:
        """Attaches nothing."""
        return ()


@dataclass(frozen=True)
class HeadOnly(Fresh):
    """A head per task on the bare base, which is all that is trained (linear probing)."""

    about: ClassVar[About] = About()

    def start(self, context: Context) -> tuple[Parent, ...]:
        """Attaches nothing."""
        return ()
