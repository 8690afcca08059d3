"""Sentences of four domains whose sentiment people rated (Hutto and Gilbert, 2014)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from contpeft.errors import ConfigError, suggest
from contpeft.experiments.archives import fetched
from contpeft.experiments.sources.base import LabelledData, Row

__all__ = ["Vader"]

_FILES: Final = MappingProxyType(
    {
        "editorials": "nytEditorialSnippets",
        "films": "movieReviewSnippets",
        "products": "amazonReviewSnippets",
        "tweets": "tweets",
    }
)


@dataclass(frozen=True)
class Vader:
    """Editorials, reviews of films and products, and tweets, ``positive`` or ``negative`` by mean rating.

    Their domain is their task. Sentences rated zero are left out. ``contpeft data fetch vader`` brings them.

    Attributes:
        domains: of ``editorials``, ``films``, ``products``, ``tweets``; None for all four.
        test_fraction: share of each class of every domain to test on.
        seed: another seed holds out other rows.
    """

    domains: list[str] | None = None
    test_fraction: float = 0.25
    seed: int = 0

    def load(self) -> LabelledData:
        """Returns the sentences.

        Raises:
            NotFoundError: if they were not fetched.
            ConfigError: if a domain does not exist, or the fraction is not between 0 and 1.
        """
        domains = list(_FILES) if self.domains is None else self.domains
        for domain in domains:
            if domain not in _FILES:
                raise ConfigError(f"VADER has no domain {domain!r}{suggest(domain, _FILES)}")
        rows = _rows(fetched("vader", "data"), domains)
        return LabelledData.from_pool(rows, test_fraction=self.test_fraction, seed=self.seed)


def _rows(folder: Path, domains: Sequence[str]) -> Iterator[Row]:
    for domain in domains:
        text = (folder / f"{_FILES[domain]}_GroundTruth.txt").read_text(encoding="utf-8")
        for line in text.splitlines():
            _, rating, sentence = line.split("\t", 2)
            if float(rating) != 0:
                yield Row(sentence, "positive" if float(rating) > 0 else "negative", domain)
