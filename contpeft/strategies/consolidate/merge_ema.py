"""Consolidate: the merge follows the trained adapters slowly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from contpeft.spec import Version
from contpeft.store import Request
from contpeft.strategies.about import About
from contpeft.strategies.context import Context
from contpeft.strategies.merged import MERGED, check_merged, register, running_merge

__all__ = ["MergeEma"]


@dataclass(frozen=True)
class MergeEma:
    """The merge is an exponential moving average over tasks: ``m_t = d m_{t-1} + (1 - d) D_t``.

    Dziadzio et al. 2024, "How to Merge Your Multimodal Models Over Time?", where it is the rule of the best
    way found. The average is of what the adapters do to the weights, not of their factors, whose products
    would be another thing.

    Attributes:
        decay: ``d``; ours, the paper searches it.
        rank: how large the merge may get, in the words of ``contpeft store fuse``.
    """

    about: ClassVar[About] = About(
        paper="Dziadzio et al. 2024, arXiv 2412.06712",
        growth="nothing: the last merge alone, at a rank of its own",
    )

    decay: float = 0.5
    rank: str = "64"

    def check(self, context: Context) -> None:
        """Checks that adapters of this method can be merged so; raises as :func:`check_merged` does."""
        check_merged(context, Request([], rank=self.rank))

    def end(self, context: Context, trained: Version | None) -> tuple[Version, ...]:
        """Registers the average, from the second task on."""
        if trained is None or not context.adapters:
            return ()
        before = running_merge(context) or context.adapters[-1]
        refs, weights = [before.ref, trained.ref], [self.decay, 1 - self.decay]
        made = context.store.fusion.candidate(Request(refs, weights, rank=self.rank))
        return (register(context, MERGED, made.state, made.parents, made.recipe),)
