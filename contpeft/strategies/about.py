"""What is told of a part or a recipe: where it comes from, what it keeps, what it needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Final, Literal

__all__ = [
    "AN_ADAPTER",
    "COMPONENTS",
    "GROWING",
    "LATER",
    "About",
    "Need",
    "growth_of",
    "parts_in",
    "summary_of",
    "told",
]

Need = Literal["examples", "features", "lora", "old data", "task id", "texts"]
"""What a part cannot do without.

``examples``: the task's raw training rows; ``features``: a module that shows its features; ``lora``: adapters
of that method; ``old data``: rows of earlier tasks are kept; ``task id``: it is known when asked; ``texts``:
rows that the model is given as tokens.
"""

AN_ADAPTER: Final = "an adapter"
"""The growth of a part that keeps or reads the adapters of all tasks: memory that is not constant."""

COMPONENTS: Final = "2 P w a component and layer, 2 d for its key, in banks that grow"
"""The growth of a pool of prompts to which every task adds its own."""

GROWING: Final = frozenset({AN_ADAPTER, COMPONENTS})
"""The growths that memory which is to be constant rules out; what a class takes is none."""

LATER: Final = "later"
"""In the metadata of a field that is younger than recorded runs: at its default it is not in their digest."""


@dataclass(frozen=True)
class About:
    """What is told of a part.

    Attributes:
        paper: authors, year, identifier, section or equation.
        growth: what it keeps for every task, per adapted matrix unless it says otherwise; empty for nothing.
        needs: what it cannot do without.
    """

    paper: str = ""
    growth: str = ""
    needs: frozenset[Need] = frozenset()


def told(part: type) -> About:
    """Returns what is told of a class of parts; one that tells nothing needs nothing."""
    found = getattr(part, "about", None)
    return found if isinstance(found, About) else About()


def growth_of(part: object) -> str:
    """Returns what a part keeps for every task; one for which that depends on its options says it itself."""
    keeps = getattr(part, "keeps", None)
    return str(keeps()) if keeps else told(type(part)).growth


def summary_of(part: type) -> str:
    """Returns the first line of a part's docstring."""
    lines = (part.__doc__ or "").strip().splitlines()
    return lines[0] if lines else ""


def parts_in(value: Any) -> Iterator[Any]:
    """Yields the parts in a part, itself first: those of a combination are in its fields."""
    if isinstance(value, tuple):
        for each in value:
            yield from parts_in(each)
    elif is_dataclass(value) and not isinstance(value, type):
        yield value
        for each in fields(value):
            yield from parts_in(getattr(value, each.name))
