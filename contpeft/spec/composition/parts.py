"""Compositions that one head answers for: a version, a sum, a stack, a fusion, with layers dropped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from contpeft.errors import SpecError
from contpeft.spec.composition.gated import Gated
from contpeft.spec.composition.value import Value, head_json, head_text, lent

__all__ = ["Base", "Drop", "Fuse", "Part", "Single", "Stack", "Sum", "average"]


@dataclass(frozen=True)
class Base(Value):
    """The bare base model, no adapter."""

    def refs(self) -> tuple[str, ...]:
        """Returns the versions this composition needs: none."""
        return ()

    def to_json(self) -> dict[str, Any]:
        """Returns the composition as JSON."""
        return {"type": "base"}

    def __str__(self) -> str:
        return "base"


@dataclass(frozen=True)
class Single(Value):
    """One version answers, with its own head or with that of another one.

    A merged adapter has no head of its own: on each task it answers with the head of a parent.

    Attributes:
        ref: the version whose adapter computes the features.
        head: the version whose head scores them; None for the head of ``ref``.
    """

    ref: str
    head: str | None = None

    @property
    def answering(self) -> str:
        """The version whose head answers."""
        return self.head or self.ref

    def refs(self) -> tuple[str, ...]:
        """Returns the versions this composition needs."""
        return (self.ref, *lent(self.head))

    def to_json(self) -> dict[str, Any]:
        """Returns the composition as JSON; without a head of another version it has no such key."""
        return {"type": "single", "ref": self.ref, **head_json(self.head)}

    def __str__(self) -> str:
        return self.ref if self.head is None else f"{self.ref} (head {self.head})"


@dataclass(frozen=True)
class Sum(Value):
    """What several versions add to the base, added up; exact, and nothing is merged.

    Attributes:
        parts: each version and its weight.
        head: the version whose head scores the features; None for the head of the first part.
    """

    parts: tuple[tuple[str, float], ...]
    head: str | None = None

    def __post_init__(self) -> None:
        """Raises :class:`SpecError` if there is nothing to add."""
        if not self.parts:
            raise SpecError("a sum of no versions has no meaning; name one at least, or use the base")

    @property
    def answering(self) -> str:
        """The version whose head answers."""
        return self.head or self.parts[0][0]

    def refs(self) -> tuple[str, ...]:
        """Returns the versions this composition needs."""
        return (*(ref for ref, _ in self.parts), *lent(self.head))

    def to_json(self) -> dict[str, Any]:
        """Returns the composition as JSON."""
        parts = [{"ref": ref, "weight": weight} for ref, weight in self.parts]
        return {"type": "sum", "parts": parts, **head_json(self.head)}

    def __str__(self) -> str:
        told = " + ".join(ref if weight == 1 else f"{weight:g} {ref}" for ref, weight in self.parts)
        return f"sum({told}{head_text(self.head)})"


def average(*refs: str, head: str | None = None) -> Sum:
    """Returns the average of what versions add to the base: their sum, each with weight ``1 / N``.

    Raises:
        SpecError: if there is none.
    """
    return Sum(tuple((ref, 1 / len(refs)) for ref in refs), head)


@dataclass(frozen=True)
class Stack(Value):
    """Adapters one upon the other: each reads what those below it make of the model.

    Attributes:
        parts: the lowest first.
        head: the version whose head scores the features; None for that of the top.
    """

    parts: tuple[Part, ...]
    head: str | None = None

    def __post_init__(self) -> None:
        """Raises :class:`SpecError` if there is nothing to stack."""
        if not self.parts:
            raise SpecError("a stack of nothing has no meaning; give one part at least, or use the base")

    @property
    def answering(self) -> str:
        """The version whose head answers."""
        return self.head or self.parts[-1].answering

    def refs(self) -> tuple[str, ...]:
        """Returns the versions this composition needs."""
        return (*(ref for part in self.parts for ref in part.refs()), *lent(self.head))

    def to_json(self) -> dict[str, Any]:
        """Returns the composition as JSON."""
        return {"type": "stack", "parts": [part.to_json() for part in self.parts], **head_json(self.head)}

    def __str__(self) -> str:
        return f"stack({', '.join(map(str, self.parts))}{head_text(self.head)})"


@dataclass(frozen=True)
class Fuse(Value):
    """Attention over several versions (AdapterFusion); the attention is a version of its own.

    ``Single(fusion)`` answers the same; this says, and checks, over what.

    Attributes:
        over: the versions that are fused.
        fusion: the version that holds the attention over them.
        head: the version whose head scores the features; None for that of the fusion.
    """

    over: tuple[str, ...]
    fusion: str
    head: str | None = None

    @property
    def answering(self) -> str:
        """The version whose head answers."""
        return self.head or self.fusion

    def refs(self) -> tuple[str, ...]:
        """Returns the versions this composition needs."""
        return (*self.over, self.fusion, *lent(self.head))

    def to_json(self) -> dict[str, Any]:
        """Returns the composition as JSON."""
        over = [{"ref": ref} for ref in self.over]
        return {"type": "fuse", "over": over, "fusion": self.fusion, **head_json(self.head)}

    def __str__(self) -> str:
        return f"fuse({', '.join(self.over)}; by {self.fusion}{head_text(self.head)})"


@dataclass(frozen=True)
class Drop(Value):
    """A part without its adapters in some of the model's layers (AdapterDrop, Rücklé et al., 2021).

    With the first layers dropped, these compute as the base does: the same for every version, and faster.

    Attributes:
        part: what answers.
        layers: numbers of the layers that are left as the base has them, from 0.
    """

    part: Part
    layers: tuple[int, ...]

    def __post_init__(self) -> None:
        """Raises :class:`SpecError` for a number that no layer has."""
        wrong = [layer for layer in self.layers if layer < 0]
        if wrong:
            raise SpecError(f"there is no layer {wrong[0]}; layers are counted from 0")

    @property
    def head(self) -> str | None:
        """The version that lends its head, or None."""
        return self.part.head

    @property
    def answering(self) -> str:
        """The version whose head answers."""
        return self.part.answering

    def refs(self) -> tuple[str, ...]:
        """Returns the versions this composition needs."""
        return self.part.refs()

    def to_json(self) -> dict[str, Any]:
        """Returns the composition as JSON."""
        return {"type": "drop", "part": self.part.to_json(), "layers": sorted(set(self.layers))}

    def __str__(self) -> str:
        return f"{self.part} without layers {', '.join(map(str, sorted(set(self.layers))))}"


Part = Single | Sum | Stack | Fuse | Gated | Drop
"""What one head answers for."""
