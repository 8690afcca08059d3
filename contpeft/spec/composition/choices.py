"""Compositions of several heads: one is chosen for each row, or all of them answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from contpeft.errors import SpecError, suggest
from contpeft.spec.composition.concat import Concat
from contpeft.spec.composition.parts import Part
from contpeft.spec.composition.value import Value

__all__ = ["Parallel", "Route", "Surest"]

_By = Literal["mean", "max", "product"]


@dataclass(frozen=True)
class Route(Value):
    """A router infers which choice answers each row.

    Attributes:
        router: the version that infers the choice (class statistics).
        choices: what may answer; choice ``k`` serves the task the router calls ``k``.
    """

    router: str
    choices: tuple[Part, ...]

    def refs(self) -> tuple[str, ...]:
        """Returns the versions this composition needs."""
        return (self.router, *(ref for choice in self.choices for ref in choice.refs()))

    def to_json(self) -> dict[str, Any]:
        """Returns the composition as JSON."""
        choices = [choice.to_json() for choice in self.choices]
        return {"type": "route", "router": self.router, "choices": choices}

    def __str__(self) -> str:
        return f"route({self.router}: {', '.join(map(str, self.choices))})"


@dataclass(frozen=True)
class Parallel(Value):
    """All choices answer every row, and their probabilities are put together.

    A label's score is the mean of its probabilities over the choices whose head knows it. So heads over the
    same labels are an ensemble, and of heads over different ones the surest answers. With ``by="max"`` it is
    the largest of them, with ``by="product"`` their product (Hinton 2002, "Training Products of Experts by
    Minimizing Contrastive Divergence"), over labels that all know. The choices are then no experts of a task
    each: all answer where the task is known.

    Attributes:
        choices: what answers; with ``by="mean"``, choice ``k`` serves task ``k`` where the task is known.
        by: how the probabilities of a label are put together.
    """

    choices: tuple[Part | Concat, ...]
    by: _By = "mean"

    def __post_init__(self) -> None:
        """Raises :class:`SpecError` if there is no choice, or probabilities are put together otherwise."""
        if not self.choices:
            raise SpecError("nothing in parallel has no answer; give one choice at least")
        if self.by not in get_args(_By):
            raise SpecError(
                f"probabilities cannot be put together by {self.by!r}{suggest(self.by, get_args(_By))}"
            )

    def refs(self) -> tuple[str, ...]:
        """Returns the versions this composition needs."""
        return tuple(ref for choice in self.choices for ref in choice.refs())

    def to_json(self) -> dict[str, Any]:
        """Returns the composition as JSON; put together by the mean it has no such key."""
        told = {"type": "parallel", "choices": [choice.to_json() for choice in self.choices]}
        return told if self.by == "mean" else {**told, "by": self.by}

    def __str__(self) -> str:
        told = ", ".join(map(str, self.choices))
        return f"parallel({told})" if self.by == "mean" else f"parallel by {self.by}({told})"


@dataclass(frozen=True)
class Surest(Value):
    """All choices score every row, and the one whose head is surest of it answers.

    Attributes:
        choices: what may answer; choice ``k`` serves task ``k`` where the task is known.
        by: how sure a head is: its highest probability (``"confidence"``), or minus its free energy, the
            logsumexp of its scores (``"energy"``; Liu et al. 2020, arXiv 2010.03759, equation 4). Both need
            heads of comparable scale; temperatures that were measured count.
    """

    choices: tuple[Part, ...]
    by: Literal["confidence", "energy"] = "confidence"

    def __post_init__(self) -> None:
        """Raises :class:`SpecError` if there is no choice, or no such way to be sure."""
        if not self.choices:
            raise SpecError("the surest of nothing has no answer; give one choice at least")
        if self.by not in ("confidence", "energy"):
            raise SpecError(f"heads are sure by confidence or by energy, not by {self.by!r}")

    def refs(self) -> tuple[str, ...]:
        """Returns the versions this composition needs."""
        return tuple(ref for choice in self.choices for ref in choice.refs())

    def to_json(self) -> dict[str, Any]:
        """Returns the composition as JSON."""
        return {"type": "surest", "choices": [choice.to_json() for choice in self.choices], "by": self.by}

    def __str__(self) -> str:
        return f"surest({', '.join(map(str, self.choices))}; by {self.by})"
