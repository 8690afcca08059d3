"""Answers: isolated adapters, of which the surest answers, or which are mixed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from contpeft.spec import Arrow, Composition, Mix, Single, Surest, Version
from contpeft.strategies.about import About
from contpeft.strategies.answers.by_statistics import statistics_of
from contpeft.strategies.context import Context

__all__ = ["MixByArrow", "MixByStatistics", "TheSurest"]


@dataclass(frozen=True)
class TheSurest:
    """All adapters so far score every row, and the surest head answers: one forward a task.

    Heads that were trained apart have scales of their own; temperatures that were measured are used.

    Attributes:
        by: ``"confidence"`` or ``"energy"``.
    """

    about: ClassVar[About] = About(paper="Liu et al. 2020, arXiv 2010.03759, equation 4")

    by: Literal["confidence", "energy"] = "confidence"

    def route(self, context: Context, registered: tuple[Version, ...]) -> dict[str, Composition]:
        """Returns the composition over every adapter so far, in task order."""
        return {"main": Surest(_singles(context, registered), self.by)}


@dataclass(frozen=True)
class MixByStatistics:
    """Each row is computed by a weighted sum of the adapters that class statistics find likeliest.

    Attributes:
        rule: the classifier whose scores are the weights' logits.
        top: how many adapters are mixed at most.
        temperature: of the weights.
    """

    about: ClassVar[About] = About(needs=frozenset({"lora"}))

    rule: str = "lda"
    top: int = 2
    temperature: float = 1.0

    def route(self, context: Context, registered: tuple[Version, ...]) -> dict[str, Composition]:
        """Returns the mixture of every adapter so far, in task order."""
        router = statistics_of(registered, self.rule)
        return {"main": Mix(router.ref, _singles(context, registered), self.top, self.temperature)}


@dataclass(frozen=True)
class MixByArrow:
    """Each token is computed by a mixture of adapters, weighed by their own first directions.

    Attributes:
        top: how many adapters are mixed at most.
        temperature: of the weights.
    """

    about: ClassVar[About] = About(
        paper="Ostapenko et al. 2024, arXiv 2405.11157, section 4.2", needs=frozenset({"lora"})
    )

    top: int = 4
    temperature: float = 1.0

    def route(self, context: Context, registered: tuple[Version, ...]) -> dict[str, Composition]:
        """Returns the mixture of every adapter so far, in task order."""
        return {"main": Arrow(_singles(context, registered), self.top, self.temperature)}


def _singles(context: Context, registered: Sequence[Version]) -> tuple[Single, ...]:
    return tuple(Single(version.ref) for version in context.adapters_with(registered))
