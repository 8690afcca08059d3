"""What was measured of the recipes: the table that comes with the package."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from statistics import fmean
from typing import Any

from contpeft.spec import Scenario

__all__ = ["Measured", "measured"]


@dataclass(frozen=True)
class Measured:
    """One answer of one recipe on one stream.

    Attributes:
        stream: the stream's name.
        scenario: what was known about a row's task.
        way: the recipe.
        answer: which of its answers; ``"main"`` is what it is known for.
        acc: mean accuracy over all tasks at the end, 0 to 1, by seed.
    """

    stream: str
    scenario: Scenario
    way: str
    answer: str
    acc: Mapping[int, float]

    def above(self, other: Measured) -> float | None:
        """Returns by how much it is above another answer of the stream, the mean over the seeds both have.

        None without such a seed: another seed is another draw of rows and order, which counts for more than
        what lies between two ways.
        """
        both = self.acc.keys() & other.acc.keys()
        return fmean(self.acc[seed] - other.acc[seed] for seed in both) if both else None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Measured:
        """Returns the row that :meth:`to_json` wrote."""
        acc = {int(seed): acc for seed, acc in value["acc"].items()}
        return cls(value["stream"], value["scenario"], value["way"], value["answer"], acc)

    def to_json(self) -> dict[str, Any]:
        """Returns the row as JSON."""
        return {**vars(self), "acc": {str(seed): acc for seed, acc in self.acc.items()}}


@cache
def measured() -> tuple[Measured, ...]:
    """Returns every row of the table; docs/results.md tells how they were measured."""
    text = files("contpeft.strategies").joinpath("measured.json").read_text(encoding="utf-8")
    return tuple(map(Measured.from_json, json.loads(text)))
