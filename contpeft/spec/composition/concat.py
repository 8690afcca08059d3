"""A composition of features: several parts side by side, one head over all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from contpeft.errors import SpecError
from contpeft.spec.composition.parts import Base, Part
from contpeft.spec.composition.value import Value

__all__ = ["Concat"]


@dataclass(frozen=True)
class Concat(Value):
    """The features of several parts side by side, scored by class statistics of just these.

    Attributes:
        parts: what computes features; the bare base may be among them.
        head: the statistics.
    """

    parts: tuple[Base | Part, ...]
    head: str

    def __post_init__(self) -> None:
        """Raises :class:`SpecError` if there are no features."""
        if not self.parts:
            raise SpecError("features of nothing cannot be put side by side; give one part at least")

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
