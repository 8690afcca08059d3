"""Consolidate: the task's adapter is taken into a running merge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from contpeft.errors import SpecError
from contpeft.spec import Version
from contpeft.store import Request
from contpeft.store.fusion import next_step
from contpeft.strategies.about import About
from contpeft.strategies.context import Context
from contpeft.strategies.merged import MERGED, check_merged, register, running_merge

__all__ = ["MergeOn"]

_RUNNING: Final = ("average", "magmax", "null-space", "opcm", "sum")


@dataclass(frozen=True)
class MergeOn:
    """The task's adapter is taken into the merge of all before it, which is all that is read of them.

    A sum, mean, ``opcm`` and ``null-space`` taken in one by one are those of all at once; so is ``magmax`` on
    the weights themselves (``space="delta"``). That holds up to what is cut off: taken in whole, an adapter
    of rank ``r`` makes a low-rank merge that much larger, up to the width of the layer, and on the weights
    themselves it is as wide at once. At a rank of its own the merge takes constant room, and every step cuts
    off a little; how much is in the version's recipe (``error``, ``energy_lost``).

    Attributes:
        rule: name of the merging rule.
        parameters: of the rule, those that differ from its own.
        rank: how large the merge may get, in the words of ``contpeft store fuse``.
        scale: what the merge is multiplied by where it answers. The running merge stays unscaled; the scaled
            one is a version beside it.

    Raises:
        SpecError: if the rule has no running form.
    """

    about: ClassVar[About] = About(growth="nothing: the last merge alone, at a rank of its own")

    rule: str = "average"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    rank: str = "64"
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.rule not in _RUNNING:
            raise SpecError(
                f"rule {self.rule!r} has no running form; use MergeAfter, or one of: {', '.join(_RUNNING)}"
            )

    def check(self, context: Context) -> None:
        """Checks that adapters of this method can be merged so; raises as :func:`check_merged` does."""
        check_merged(context, Request([], None, self.rule, self.parameters, self.rank))

    def end(self, context: Context, trained: Version | None) -> tuple[Version, ...]:
        """Registers the running merge, and the scaled one if they differ, from the second task on."""
        if trained is None or not context.adapters:
            return ()
        before = running_merge(context)
        refs, seen = [context.adapters[-1].ref, trained.ref], 1
        request = Request(refs, None, self.rule, self.parameters, self.rank, context.seed)
        if before is not None:
            request = next_step(request, [before], trained)
            seen = int((before.recipe or {})["seen"])
        made = context.store.fusion.candidate(request)
        told = {**made.recipe, "seen": seen + 1}
        running = register(context, MERGED, made.state, made.parents, told)
        return (running, *self._scaled(context, running))

    def _scaled(self, context: Context, running: Version) -> tuple[Version, ...]:
        if self.scale == 1:
            return ()
        made = context.store.fusion.candidate(Request([running.ref], [self.scale]))
        return (register(context, "scaled", made.state, made.parents, made.recipe),)
