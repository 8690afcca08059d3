"""Consolidate: nothing is done."""

from __future__ import annotations

from dataclasses import dataclass

from contpeft.spec import Version
from contpeft.strategies.context import Context

__all__ = ["Freeze"]


@dataclass(frozen=True)
class Freeze:
    """The version stands as it was registered; nothing else is kept."""

    def end(self, context: Context, trained: Version | None) -> tuple[Version, ...]:
        """Registers nothing."""
        return ()
