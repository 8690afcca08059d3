"""Consolidate: several merges are tried, the best is kept."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import ClassVar, Literal

from contpeft.errors import SpecError
from contpeft.spec import AdapterState, Single, Version
from contpeft.store import Candidate
from contpeft.strategies.about import AN_ADAPTER, About
from contpeft.strategies.consolidate.merge_after import MergeAfter
from contpeft.strategies.context import Context
from contpeft.strategies.drift import accuracy_on
from contpeft.strategies.kept_rows import KeptTask, drawn_rows, kept_rows
from contpeft.strategies.merged import MERGED, register
from contpeft.strategies.provisional import provisional

__all__ = ["BestMerge"]

_USUAL = (
    MergeAfter("average"),
    MergeAfter("task-arithmetic", {"scale": 0.3}),
    MergeAfter("ties"),
    MergeAfter("opcm"),
    MergeAfter("null-space"),
)


@dataclass(frozen=True)
class BestMerge:
    """Several rules are tried after every task, and the merge that does best is the one that is kept.

    Which rule is best depends on how much the tasks conflict, and no rule is best everywhere. What came of
    each is in the version's recipe (``tried``, ``chosen``). Of equals the first wins.

    Attributes:
        candidates: what is tried, in this order.
        by: ``"interference"``: the accuracy on the current task's rows less what the merge loses, on average,
            of each adapter on the inputs which that adapter reads (:class:`~contpeft.merging.Interference`,
            ``residual``); no old data. ``"rows"``: the mean accuracy over the tasks so far on rows that
            :class:`KeepRows`, which comes before this part, has kept; old data.
        rows: how many of the current task's rows are asked at most.

    Raises:
        SpecError: if there is no candidate.
    """

    about: ClassVar[About] = About(growth=AN_ADAPTER, needs=frozenset({"examples", "features"}))

    candidates: tuple[MergeAfter, ...] = _USUAL
    by: Literal["interference", "rows"] = "interference"
    rows: int = 200

    def __post_init__(self) -> None:
        if not self.candidates:
            raise SpecError("there is no merge to choose from; give one candidate at least")

    def end(self, context: Context, trained: Version | None) -> tuple[Version, ...]:
        """Registers the best merge, from the second task on."""
        if trained is None or not context.adapters:
            return ()
        measure = self._on_rows if self.by == "rows" else self._by_interference
        tried = [measure(context, each, trained) for each in self.candidates]
        place = max(range(len(tried)), key=lambda n: tried[n][1])
        made = tried[place][0]
        told = [
            {"rule": each.rule, "parameters": dict(each.parameters), "value": value}
            for each, (_, value) in zip(self.candidates, tried, strict=True)
        ]
        chosen = {**made.recipe, "chosen": place, "by": self.by, "tried": told}
        return (register(context, MERGED, made.state, made.parents, chosen),)

    def _on_rows(self, context: Context, how: MergeAfter, trained: Version) -> tuple[Candidate, float]:
        made = how.candidate(context, trained)
        return made, fmean(_accuracy(context, made, trained, kept_rows(context)))

    def _by_interference(
        self, context: Context, how: MergeAfter, trained: Version
    ) -> tuple[Candidate, float]:
        plan = context.store.fusion.plan(how.request(context, trained))
        rows = drawn_rows(context, "choosing a merge").first(self.rows)
        [right] = _accuracy(context, plan.candidate, trained, (rows,))
        lost = [value for value in plan.interference.residual if value is not None]
        return plan.candidate, right - fmean(lost)


def _accuracy(
    context: Context, made: Candidate, trained: Version, tasks: tuple[KeptTask, ...]
) -> list[float]:
    """Returns the accuracy of a merge that is not stored, with the head of the adapter just trained."""
    entry = provisional(made.state, tuple(parent.ref for parent in made.parents), made.base)

    def load(ref: str) -> tuple[Version, AdapterState]:
        return (entry, made.state) if ref == entry.ref else context.load(ref)

    return accuracy_on(context, tasks, Single(entry.ref, trained.ref), load)
