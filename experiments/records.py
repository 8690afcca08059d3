"""What ``compare.py`` measures and ``orderings.py`` reads: one record a way, answer, protocol and seed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Record:
    """What one way scored on one stream with one seed, under one protocol.

    Attributes:
        stream: name of the stream.
        scenario: what was known about a row's task.
        way: the strategy.
        answer: which of its answers.
        protocol: which classes could be answered.
        seed: the run's.
        recipe: digest of the recipe, so that a changed one is measured anew.
        settings: digest of the other settings of the experiment, for the same end.
        numbers: the matrix in numbers, 0 to 1, and how often the task was inferred rightly.
        seconds: of all its steps, training and measuring; of what ways share, features and equal scores count
            for the first alone.
        parameters: trained and stored, the mean over tasks.
        bytes: stored, the mean over tasks.
        rate: what the file's learning rate was multiplied by.
    """

    stream: str
    scenario: str
    way: str
    answer: str
    protocol: str
    seed: int
    recipe: str
    settings: str
    numbers: dict[str, float | None]
    seconds: float
    parameters: float
    bytes: float
    rate: float = 1.0


class Results:
    """The records of one stream, in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records = self._read()

    def _read(self) -> list[Record]:
        told = json.loads(self.path.read_text()) if self.path.exists() else []
        return [Record(**each) for each in told]

    def has(self, way: str, seed: int, recipe: str, settings: str) -> bool:
        """Returns whether a way was measured as this recipe, with these settings."""
        wanted = (way, seed, recipe, settings)
        return any((each.way, each.seed, each.recipe, each.settings) == wanted for each in self.records)

    def add(self, new: Iterable[Record]) -> None:
        """Puts records in the place of those of the same way and seed, and writes the file."""
        added = list(new)
        replaced = {(each.way, each.seed) for each in added}
        # Read anew: another process may have measured other ways meanwhile.
        self._write([*added, *(each for each in self._read() if (each.way, each.seed) not in replaced)])

    def retain(self, wanted: Mapping[str, tuple[str, str]]) -> set[str]:
        """Takes out what was measured of other recipes or with other settings, and returns the ways of it.

        Args:
            wanted: the digests of recipe and settings, by way.
        """
        found = self._read()
        kept = [each for each in found if wanted.get(each.way) == (each.recipe, each.settings)]
        dropped = {each.way for each in found if each not in kept}
        if dropped:
            self._write(kept)
        return dropped

    def _write(self, records: Iterable[Record]) -> None:
        self.records = sorted(records, key=lambda each: (each.seed, each.way, each.protocol, each.answer))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")  # whoever is killed while writing leaves the old file
        partial.write_text(json.dumps([asdict(each) for each in self.records], indent=1) + "\n")
        partial.replace(self.path)


def headline(scenario: str) -> str:
    """Returns the protocol whose ACC stands for a stream of a scenario."""
    return "task_aware" if scenario == "task-incremental" else "all_classes"
