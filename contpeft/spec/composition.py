"""How versions answer together, as a value with a digest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from contpeft.digest import json_digest
from contpeft.errors import SpecError, suggest

__all__ = ["Base", "Composition", "Route", "Single", "Sum", "composition_from_json"]


@dataclass(frozen=True)
class Base:
    """The bare base model, no adapter."""

    def refs(self) -> tuple[str, ...]:
        """Returns the versions this composition needs: none."""
        return ()

    def to_json(self) -> dict[str, Any]:
        """Returns the composition as JSON."""
        return {"type": "base"}

    def digest(self, fingerprint: Callable[[str], str]) -> str:
        """Returns the digest of what answers; see :meth:`Single.digest`."""
        return _composition_digest(self, fingerprint)

    def __str__(self) -> str:
        return "base"


@dataclass(frozen=True)
class Single:
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
        return (self.ref,) if self.head is None else (self.ref, self.head)

    def to_json(self) -> dict[str, Any]:
        """Returns the composition as JSON; without a head of another version it has no such key."""
        head = {} if self.head is None else {"head": self.head}
        return {"type": "single", "ref": self.ref, **head}

    def digest(self, fingerprint: Callable[[str], str]) -> str:
        """Returns the digest of what answers.

        Args:
            fingerprint: maps a reference to a digest of that version's content, so that equal
                versions under different names give equal compositions.
        """
        return _composition_digest(self, fingerprint)

    def __str__(self) -> str:
        return self.ref if self.head is None else f"{self.ref} (head {self.head})"


@dataclass(frozen=True)
class Sum:
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
        return (*(ref for ref, _ in self.parts), *([] if self.head is None else [self.head]))

    def to_json(self) -> dict[str, Any]:
        """Returns the composition as JSON."""
        parts = [{"ref": ref, "weight": weight} for ref, weight in self.parts]
        head = {} if self.head is None else {"head": self.head}
        return {"type": "sum", "parts": parts, **head}

    def digest(self, fingerprint: Callable[[str], str]) -> str:
        """Returns the digest of what answers; see :meth:`Single.digest`."""
        return _composition_digest(self, fingerprint)

    def __str__(self) -> str:
        told = " + ".join(ref if weight == 1 else f"{weight:g} {ref}" for ref, weight in self.parts)
        return f"sum({told})" if self.head is None else f"sum({told}; head {self.head})"


@dataclass(frozen=True)
class Route:
    """A router infers which choice answers each row.

    Attributes:
        router: the version that infers the choice (class statistics of the frozen base).
        choices: what may answer; choice ``k`` serves the task the router calls ``k``.
    """

    router: str
    choices: tuple[Single | Sum, ...]

    def refs(self) -> tuple[str, ...]:
        """Returns the versions this composition needs."""
        return (self.router, *(ref for choice in self.choices for ref in choice.refs()))

    def to_json(self) -> dict[str, Any]:
        """Returns the composition as JSON."""
        choices = [choice.to_json() for choice in self.choices]
        return {"type": "route", "router": self.router, "choices": choices}

    def digest(self, fingerprint: Callable[[str], str]) -> str:
        """Returns the digest of what answers; see :meth:`Single.digest`."""
        return _composition_digest(self, fingerprint)

    def __str__(self) -> str:
        return f"route({self.router}: {', '.join(map(str, self.choices))})"


Composition = Base | Single | Sum | Route


def composition_from_json(value: Mapping[str, Any]) -> Composition:
    """Returns the composition its ``to_json`` wrote.

    Raises:
        SpecError: if the type is unknown.
    """
    kind = str(value.get("type"))
    if kind == "base":
        return Base()
    if kind == "single":
        return Single(value["ref"], value.get("head"))
    if kind == "sum":
        return Sum(tuple((part["ref"], part["weight"]) for part in value["parts"]), value.get("head"))
    if kind == "route":
        return Route(value["router"], tuple(map(_choice_from_json, value["choices"])))
    raise SpecError(f"no composition of type {kind!r}{suggest(kind, ('base', 'single', 'sum', 'route'))}")


def _choice_from_json(value: Mapping[str, Any]) -> Single | Sum:
    choice = composition_from_json(value)
    if not isinstance(choice, Single | Sum):
        raise SpecError(f"{choice} cannot be a choice of a route; only a single version or a sum can")
    return choice


def _composition_digest(composition: Composition, fingerprint: Callable[[str], str]) -> str:
    content = _replace_refs(composition.to_json(), fingerprint)
    return json_digest(content)


def _replace_refs(value: Any, fingerprint: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        return {
            key: fingerprint(item) if key in ("ref", "router", "head") else _replace_refs(item, fingerprint)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_replace_refs(item, fingerprint) for item in value]
    return value
