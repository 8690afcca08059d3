"""Consolidate: a few rows of the task are kept to measure on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from contpeft.spec import Version
from contpeft.strategies.about import About
from contpeft.strategies.context import Context
from contpeft.strategies.kept_rows import drawn_rows, kept_rows, remember_rows

__all__ = ["KeepRows"]


@dataclass(frozen=True)
class KeepRows:
    """Some of the task's training rows are kept, as many of every task, to choose by and not to train on.

    This is old data. The rows were trained on when their task was learnt: what is measured on them compares
    merges with each other, and says nothing of unseen rows.

    Attributes:
        rows: of all tasks together; each keeps the same share of them, so that earlier ones give some up.
    """

    about: ClassVar[About] = About(
        growth="nothing: a bounded number of rows", needs=frozenset({"examples", "old data"})
    )

    rows: int = 200

    def end(self, context: Context, trained: Version | None) -> tuple[Version, ...]:
        """Registers the rows of all tasks so far."""
        tasks = (*kept_rows(context), drawn_rows(context, "keeping rows"))
        share = max(1, self.rows // len(tasks))
        return (remember_rows(context, [each.first(share) for each in tasks]),)
