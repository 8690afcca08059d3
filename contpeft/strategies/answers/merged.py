"""Answers: the merge, and beside it the adapter as it was trained."""

from __future__ import annotations

from dataclasses import dataclass

from contpeft.spec import Composition, Single, Version
from contpeft.strategies.context import Context
from contpeft.strategies.merged import answering_merge

__all__ = ["Merged"]


@dataclass(frozen=True)
class Merged:
    """The last merge answers with the head of the adapter trained last; that adapter alone is a stage.

    Before anything was merged, the trained adapter is the merge: of one adapter it is that adapter.
    """

    def route(self, context: Context, registered: tuple[Version, ...]) -> dict[str, Composition]:
        """Returns ``"main"``, the merge, and ``"before-merge"``, the adapter as it was trained."""
        trained = context.adapters_with(registered)[-1].ref
        merged = answering_merge(registered)
        main = Single(trained) if merged is None else Single(merged.ref, trained)
        return {"main": main, "before-merge": Single(trained)}
