"""A candidate that forgot too much, taken back towards the champion as little as it needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from contpeft.experiments.evaluation import Evaluation
from contpeft.experiments.gate import passes
from contpeft.experiments.gate_report import Terms
from contpeft.merging import Heads
from contpeft.spec import Version
from contpeft.store import AdapterStore, Candidate, Request

__all__ = ["Repair", "repair"]

_GRID: Final = tuple(tenths / 10 for tenths in range(9, 0, -1))
_HALVINGS: Final = 3


@dataclass(frozen=True)
class Repair:
    """What passes of ``champion + share (candidate - champion)``.

    Attributes:
        share: how much of the candidate's change is kept, 0 to 1, both excluded.
        candidate: the adapter between the two, not stored yet.
    """

    share: float
    candidate: Candidate


def repair(
    evaluation: Evaluation, store: AdapterStore, candidate: str, champion: str, terms: Terms | None = None
) -> Repair | None:
    """Returns the adapter nearest to the candidate, on the line to the champion, that passes the gate.

    Adapters are interpolated exactly, by what they do to the weights (Wortsman et al. 2022, Robust
    fine-tuning of zero-shot models), the heads too if both know the same classes; else the candidate's head
    answers. Shares of 0.9 to 0.1 are tried from above; the interval over the first that passes is then
    halved three times.

    Args:
        evaluation: the tasks, the model and the store.
        store: where both versions are.
        candidate: the version that forgot too much.
        champion: the version it is measured against.
        terms: what may be lost; the defaults without it.

    Returns:
        None if no share passes.

    Raises:
        UnsupportedError: if adapters of this method cannot be merged.
        SpecError: if no head answers a task, or several could.
    """
    line = _Line(evaluation, store, store.show(candidate), store.show(champion), terms or Terms())
    share = next(filter(line.passes, _GRID), None)
    if share is None:
        return None
    above = round(share + 0.1, 4)
    for _ in range(_HALVINGS):
        middle = (share + above) / 2
        if line.passes(middle):
            share = middle
        else:
            above = middle
    return Repair(share, line.between(share))


@dataclass(frozen=True)
class _Line:
    """The adapters between a champion and a candidate."""

    evaluation: Evaluation
    store: AdapterStore
    candidate: Version
    champion: Version
    terms: Terms

    def passes(self, share: float) -> bool:
        made = self.between(share)
        with self.evaluation.guest(made.state, tuple(parent.ref for parent in made.parents)) as ref:
            return passes(self.evaluation, ref, self.champion.ref, self.terms)

    def between(self, share: float) -> Candidate:
        refs, weights = [self.candidate.ref, self.champion.ref], [share, 1 - share]
        return self.store.fusion.candidate(Request(refs, weights, heads=self._heads()))

    def _heads(self) -> Heads:
        if self.candidate.head is None:
            return "keep"
        return "average" if self.candidate.head == self.champion.head else "first"
