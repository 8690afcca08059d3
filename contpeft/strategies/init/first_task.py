"""Init: an adapter at the first task alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from contpeft.spec import Parent
from contpeft.strategies.about import About
from contpeft.strategies.context import Context
from contpeft.strategies.init.fresh import Fresh

__all__ = ["FirstTask"]


@dataclass(frozen=True)
class FirstTask(Fresh):
    """An adapter is trained at the first task; at later ones nothing is, and none is attached."""

    about: ClassVar[About] = About(paper="Zhou et al. 2023, arXiv 2303.07338, section 4")

    def trains(self, step: int) -> bool:
        """There is something to train at the first task."""
        return step == 0

    def start(self, context: Context) -> tuple[Parent, ...]:
        """Attaches a fresh adapter at the first task, nothing at later ones."""
        return super().start(context) if self.trains(context.step) else ()
