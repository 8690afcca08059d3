"""Compositions of features: several views of an input side by side, one head over all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from contpeft.errors import SpecError
from contpeft.spec.composition.parts import Base, Part
from contpeft.spec.composition.value import Value

__all__ = ["Concat", "Layers", "Tokens", "View"]


@dataclass(frozen=True)
class Layers(Value):
    """The features of the last layers of an encoder, each of unit length, side by side.

    What pools the last layer's states pools those of the others.

    Attributes:
        of: whose: the bare base, or what one head answers for.
        last: how many layers, from the top; all of a model that has no more.
    """

    of: Base | Part
    last: int

    def __post_init__(self) -> None:
        """Raises :class:`SpecError` for less than one layer."""
        if self.last < 1:
            raise SpecError(f"there are no features of {self.last} layers; give 1 or more")

    def refs(self) -> tuple[str, ...]:
        """Returns the versions this view needs."""
        return self.of.refs()

    def to_json(self) -> dict[str, Any]:
        """Returns the view as JSON."""
        return {"type": "layers", "of": self.of.to_json(), "last": self.last}

    def __str__(self) -> str:
        return f"last {self.last} layers of {self.of}"


@dataclass(frozen=True)
class Tokens(Value):
    """The tokens of a text: no features that a model computes, but what it is given."""

    def refs(self) -> tuple[str, ...]:
        """Returns the versions this view needs: none."""
        return ()

    def to_json(self) -> dict[str, Any]:
        """Returns the view as JSON."""
        return {"type": "tokens"}

    def __str__(self) -> str:
        return "tokens"


View = Base | Part | Layers | Tokens
"""What computes features of an input."""


@dataclass(frozen=True)
class Concat(Value):
    """The features of several views side by side, scored by class statistics of just these.

    Attributes:
        parts: what computes features; the bare base may be among them.
        head: the statistics.
    """

    parts: tuple[View, ...]
    head: str

    def __post_init__(self) -> None:
        """Raises :class:`SpecError` if there are no features, or some are tokens beside others."""
        if not self.parts:
            raise SpecError("features of nothing cannot be put side by side; give one part at least")
        if len(self.parts) > 1 and Tokens() in self.parts:
            raise SpecError("tokens are no features to be put beside others; let them answer together")

    @property
    def answering(self) -> str:
        """The version whose head answers."""
        return self.head

    def refs(self) -> tuple[str, ...]:
        """Returns the versions this composition needs."""
        return (*(ref for part in self.parts for ref in part.refs()), self.head)

    def to_json(self) -> dict[str, Any]:
        """Returns the composition as JSON."""
        return {"type": "concat", "parts": [part.to_json() for part in self.parts], "head": self.head}

    def __str__(self) -> str:
        return f"concat({', '.join(map(str, self.parts))}; head {self.head})"
