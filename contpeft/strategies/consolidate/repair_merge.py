"""Consolidate: a merge that drifts too far is taken back towards the one before."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Final

from contpeft.errors import UnsupportedError
from contpeft.spec import Part, Single, Sum, Version
from contpeft.store import Request
from contpeft.strategies.about import About
from contpeft.strategies.context import Context
from contpeft.strategies.drift import Drift, MovedAnswers
from contpeft.strategies.merged import answering_merge, register

__all__ = ["RepairMerge"]

_SHARES: Final = tuple(tenths / 10 for tenths in range(10, -1, -1))


@dataclass(frozen=True)
class RepairMerge:
    """The merge is taken back, in tenths, until its drift on earlier tasks is no more than a tolerance.

    ``m' + share (m - m')`` with the merge ``m`` and what answered before, ``m'``: the largest share that
    passes, where 0 always does (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models"). The
    interpolation is one of updates, exact up to the rank.

    Attributes:
        tolerance: the largest drift, in the unit of what measures it.
        drift: what measures it; without old data unless told otherwise.
        rank: how large the repaired merge may get, in the words of ``contpeft store fuse``.
    """

    about: ClassVar[About] = About(paper="Wortsman et al. 2022, arXiv 2109.01903", growth="nothing")

    tolerance: float = 0.05
    drift: Drift = field(default_factory=MovedAnswers)
    rank: str = "64"

    def end(self, context: Context, trained: Version | None) -> tuple[Version, ...]:
        """Registers the repaired merge; nothing where the merge passes as it is.

        Raises:
            UnsupportedError: if nothing was merged by a part before it.
        """
        if trained is None or not context.adapters:
            return ()
        merged = answering_merge(context.registered)
        if merged is None:
            raise UnsupportedError("there is no merge to repair; let a part that merges come before this one")
        before = answering_merge(context.history) or context.adapters[-1]
        share = self._share(context, before.ref, merged.ref, trained.ref)
        if share == 1:
            return ()
        request = Request([merged.ref, before.ref], [share, 1 - share], rank=self.rank)
        made = context.store.fusion.candidate(request)
        return (register(context, "repaired", made.state, made.parents, {**made.recipe, "share": share}),)

    def _share(self, context: Context, before: str, merged: str, head: str) -> float:
        start = Single(before, head)

        def passes(share: float) -> bool:
            parts = tuple((ref, w) for ref, w in ((before, 1 - share), (merged, share)) if w)
            between: Part = Sum(parts, head) if len(parts) > 1 else Single(parts[0][0], head)
            return self.drift.between(context, start, between) <= self.tolerance

        return next(share for share in _SHARES if share == 0 or passes(share))
