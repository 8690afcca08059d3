"""Consolidate: all adapters so far are merged after every task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from contpeft.spec import Version
from contpeft.store import Candidate, Request
from contpeft.strategies.about import AN_ADAPTER, About
from contpeft.strategies.context import Context
from contpeft.strategies.merged import MERGED, check_merged, register

__all__ = ["MergeAfter"]


@dataclass(frozen=True)
class MergeAfter:
    """The adapters of all tasks so far are merged anew; nothing is trained, no data is read.

    At the first task there is nothing to merge. Later merges start from the adapters as they were trained, so
    no error adds up, and every adapter is read again at every task; see :class:`MergeOn` for rules that need
    no more than the last merge.

    Attributes:
        rule: name of the merging rule.
        parameters: of the rule, those that differ from its own.
        mean: the adapters weigh ``1 / t`` each, not 1; for rules that add up.
        rank: how large the merge may get, in the words of ``contpeft store fuse``. What is cut off is in the
            version's recipe (``error``, ``energy_lost``).
    """

    about: ClassVar[About] = About(growth=AN_ADAPTER)

    rule: str = "average"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    mean: bool = False
    rank: str = "64"

    def check(self, context: Context) -> None:
        """Checks that adapters of this method can be merged so; raises as :func:`check_merged` does."""
        check_merged(context, Request([], None, self.rule, self.parameters, self.rank))

    def end(self, context: Context, trained: Version | None) -> tuple[Version, ...]:
        """Registers the merge, from the second task on."""
        if trained is None or not context.adapters:
            return ()
        made = self.candidate(context, trained)
        return (register(context, MERGED, made.state, made.parents, made.recipe),)

    def candidate(self, context: Context, trained: Version) -> Candidate:
        """Returns the merge of earlier adapters and the one just trained, not registered.

        Raises:
            UnsupportedError: if adapters of this method cannot be merged.
            UsageError: if rule, parameter or rank is unknown or refused.
        """
        return context.store.fusion.candidate(self.request(context, trained))

    def request(self, context: Context, trained: Version) -> Request:
        """Returns what is merged, and how."""
        refs = [version.ref for version in (*context.adapters, trained)]
        weights = [1 / len(refs) if self.mean else 1.0] * len(refs)
        return Request(refs, weights, self.rule, self.parameters, self.rank, context.seed)
