"""Definitions of nouns, by what kind of thing they name (Miller, 1995)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from contpeft.experiments.archives import fetched
from contpeft.experiments.sources.base import LabelledData, Row

__all__ = ["WordNetGlosses"]

# The files that lexicographers keep nouns in, by number; those with too few for a task are left out.
_KINDS: Final = {
    4: "act", 5: "animal", 6: "artifact", 7: "attribute", 8: "body", 9: "cognition", 10: "communication",
    11: "event", 13: "food", 14: "group", 15: "location", 17: "object", 18: "person", 20: "plant",
    21: "possession", 22: "process", 23: "quantity", 26: "state", 27: "substance", 28: "time",
}  # fmt: skip


@dataclass(frozen=True)
class WordNetGlosses:
    """Glosses of WordNet 3.0, each labelled by what kind of noun it defines, such as ``animal`` or ``food``.

    Examples of use are left out. ``contpeft data fetch wordnet`` brings them.

    Attributes:
        classes: kinds to use; None for all 20.
        test_fraction: share of every class to test on.
        seed: another seed holds out other rows.
    """

    classes: list[str] | None = None
    test_fraction: float = 0.25
    seed: int = 0

    def load(self) -> LabelledData:
        """Returns the glosses.

        Raises:
            NotFoundError: if they were not fetched.
            ConfigError: if a class does not exist, or the fraction is not between 0 and 1.
        """
        rows = _rows(fetched("wordnet", "data") / "data.noun")
        data = LabelledData.from_pool(rows, test_fraction=self.test_fraction, seed=self.seed)
        return data.only(self.classes)


def _rows(path: Path) -> Iterator[Row]:
    for line in path.read_text(encoding="ascii").splitlines():
        if line.startswith("  "):
            continue  # the licence
        kind = _KINDS.get(int(line.split(" ", 2)[1]))
        gloss = line.partition(" | ")[2].partition('; "')[0].strip()
        if kind is not None and gloss:
            yield Row(gloss, kind)
