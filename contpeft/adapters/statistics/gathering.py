"""What all statistics have in common: entries, features of unit length, rows left out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from contpeft.errors import SpecError

__all__ = ["Gathered", "LeftOut", "head_options", "unit_length"]


@dataclass(frozen=True)
class LeftOut:
    """What statistics say of rows they hold, each as if it had been left out.

    Attributes:
        scores: ``(n, C)``.
        entries: of each row, its column.
        labels: of each column.
    """

    scores: Tensor
    entries: tuple[int, ...]
    labels: tuple[str, ...]

    @classmethod
    def of_nothing(cls, labels: Sequence[str]) -> LeftOut:
        """Returns what is said where no row can be left out."""
        return cls(torch.zeros(0, len(labels), dtype=torch.float64), (), tuple(labels))


class Gathered(ABC):
    """Statistics of unit-length features, by entry: a label met in a task.

    Attributes:
        labels: label of each entry.
        groups: the task index of each entry.
    """

    def __init__(self) -> None:
        self.labels: list[str] = []
        self.groups: list[int] = []

    def update(self, features: Tensor, labels: Sequence[str], group: int) -> None:
        """Adds features ``(n, d)`` of one task.

        Args:
            features: any float type.
            labels: their label names.
            group: index of the task they belong to.

        Raises:
            SpecError: if there are not as many labels as features, or these are of another width
                than the ones before.
        """
        unit = self._rows(features)
        if len(labels) != len(unit):
            raise SpecError(f"class statistics need a label per feature, got {len(labels)} for {len(unit)}")
        if not self.labels:
            self._begin(unit.shape[1])
        elif self._width() not in (None, unit.shape[1]):
            raise SpecError(f"class statistics are of features of width {self._width()}, got {unit.shape[1]}")
        self._take(unit, [self._entry(label, group) for label in labels])

    def _entry(self, label: str, group: int) -> int:
        key = (label, group)
        known = list(zip(self.labels, self.groups, strict=True))
        if key in known:
            return known.index(key)
        self.labels.append(label)
        self.groups.append(group)
        self._open()
        return len(self.labels) - 1

    def _known(self, features: Tensor, labels: Sequence[str], group: int) -> tuple[Tensor, list[int]]:
        """Returns rows that were added as they are counted, and their entries."""
        entry = {key: n for n, key in enumerate(zip(self.labels, self.groups, strict=True))}
        if missing := [label for label in labels if (label, group) not in entry]:
            raise SpecError(f"no rows of {missing[0]!r} were added as task {group}; update with them first")
        return self._rows(features), [entry[label, group] for label in labels]

    def _several(self, features: Tensor, labels: Sequence[str], group: int) -> tuple[Tensor, list[int]]:
        """Returns the same of rows whose entry has others, so that it is not empty without one."""
        rows, entries = self._known(features, labels, group)
        counts = Counter(entries)
        asked = [row for row, entry in enumerate(entries) if counts[entry] > 1]
        return rows[asked], [entries[row] for row in asked]

    def _rows(self, features: Tensor) -> Tensor:
        """Returns features as they are counted: here at unit length."""
        return unit_length(features)

    @abstractmethod
    def _begin(self, width: int) -> None:
        """Starts with features of a width."""

    @abstractmethod
    def _width(self) -> int | None:
        """Returns the width of the features so far; None where it may vary."""

    @abstractmethod
    def _open(self) -> None:
        """Makes room for one more entry."""

    @abstractmethod
    def _take(self, unit: Tensor, entries: list[int]) -> None:
        """Adds unit-length features ``(n, d)``, the entry of each told."""


def unit_length(features: Tensor) -> Tensor:
    """Returns features ``(n, d)`` at unit length, float64 on the CPU."""
    return F.normalize(features.detach().to("cpu", torch.float64), dim=1)


def head_options(over: Sequence[Mapping[str, Any]], temperature: float = 1.0) -> dict[str, Any]:
    """Returns the options of a head that are there only where they say something.

    Args:
        over: whose features it reads, as JSON; none for the bare base's.
        temperature: what its scores are divided by.
    """
    told: dict[str, Any] = {"over": [dict(part) for part in over]} if over else {}
    return told | ({"temperature": temperature} if temperature != 1 else {})
