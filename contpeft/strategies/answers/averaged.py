"""Answers: the moving average of the adapter, alone or with the adapter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from contpeft.spec import Composition, Parallel, Single, Version
from contpeft.strategies.about import About
from contpeft.strategies.averages import AVERAGE
from contpeft.strategies.context import Context

__all__ = ["Averaged", "WithAverage"]


@dataclass(frozen=True)
class Averaged:
    """The moving average answers; what was trained is measured beside it."""

    def route(self, context: Context, registered: tuple[Version, ...]) -> dict[str, Composition]:
        """Returns the average as ``main``, and the adapter as ``online``."""
        online, average = _pair(context, registered)
        return {"main": average, "online": online}


@dataclass(frozen=True)
class WithAverage:
    """Adapter and average answer together: of each label the larger of its two probabilities.

    Gao et al. 2023, section 3 (ensemble of the expert models).
    """

    about: ClassVar[About] = About(paper="Gao et al. 2023, arXiv 2303.10070, section 3")

    def route(self, context: Context, registered: tuple[Version, ...]) -> dict[str, Composition]:
        """Returns both together as ``main``, and each alone as ``online`` and ``average``."""
        online, average = _pair(context, registered)
        return {"main": Parallel((online, average), by="max"), "online": online, "average": average}


def _pair(context: Context, registered: tuple[Version, ...]) -> tuple[Single, Single]:
    average = next(v for v in registered if v.name == context.name_of(AVERAGE))
    return Single(registered[0].ref), Single(average.ref)
