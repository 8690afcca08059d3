"""Comparing two versions: configuration, weights, head, data, scores."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from contpeft.spec import AdapterState, Score, Version
from contpeft.store.rows import MISSING, differences

__all__ = ["Change", "Difference", "ScoreChange", "TensorChange", "fields", "scores", "tensors"]


@dataclass(frozen=True)
class Change:
    """One value that differs.

    Attributes:
        key: dotted name (``"config.r"``, ``"head.classes.3"``, ``"data"``).
        before: the value in the first version, or None when it has none.
        after: the value in the second version, or None when it has none.
    """

    key: str
    before: Any
    after: Any


@dataclass(frozen=True)
class TensorChange:
    """How far one tensor moved.

    Attributes:
        name: the tensor.
        shapes: its shape in each version; None where it is not there.
        norm: Frobenius norm of the difference, or None when the shapes differ.
        relative: that over the norm in the first version; None when that is zero.
    """

    name: str
    shapes: tuple[tuple[int, ...] | None, tuple[int, ...] | None]
    norm: float | None
    relative: float | None


@dataclass(frozen=True)
class ScoreChange:
    """One score of both versions; None where a version was not measured."""

    answer: str
    task: str
    protocol: str
    metric: str
    before: float | None
    after: float | None


@dataclass(frozen=True)
class Difference:
    """What differs between two versions.

    Attributes:
        before: ``name@n`` of the first.
        after: ``name@n`` of the second.
        fields: values that differ.
        tensors: every tensor of either that is not equal in both.
        scores: every score of either.
    """

    before: str
    after: str
    fields: tuple[Change, ...]
    tensors: tuple[TensorChange, ...]
    scores: tuple[ScoreChange, ...]


_COMPARED = ("kind", "config", "head", "base", "origin", "recipe", "task", "data")


def fields(before: Version, after: Version) -> tuple[Change, ...]:
    """Returns the values of two catalogue entries that differ."""
    old, new = ({key: version.to_json()[key] for key in _COMPARED} for version in (before, after))
    found = differences(old, new)
    return tuple(Change(key, *(None if v is MISSING else v for v in values)) for key, *values in found)


def tensors(before: AdapterState, after: AdapterState) -> tuple[TensorChange, ...]:
    """Returns the tensors of two states that are not equal in both."""
    names = sorted({*before.tensors, *after.tensors})
    changes = (_tensor(name, before.tensors.get(name), after.tensors.get(name)) for name in names)
    return tuple(change for change in changes if change.norm != 0.0)


def _tensor(name: str, before: Any, after: Any) -> TensorChange:
    """Returns how far a tensor moved, reckoned in double precision."""
    shapes = tuple(None if tensor is None else tuple(tensor.shape) for tensor in (before, after))
    if shapes[0] != shapes[1]:
        return TensorChange(name, (shapes[0], shapes[1]), None, None)
    old, new = before.double(), after.double()
    norm, length = float((new - old).norm()), float(old.norm())
    return TensorChange(name, (shapes[0], shapes[1]), norm, norm / length if length else None)


def scores(before: Iterable[Score], after: Iterable[Score]) -> tuple[ScoreChange, ...]:
    """Returns every score of two versions side by side, in the order they were written."""
    old, new = ({(s.answer, s.task, s.protocol, s.metric): s.value for s in side} for side in (before, after))
    return tuple(ScoreChange(*key, before=old.get(key), after=new.get(key)) for key in {**old, **new})
