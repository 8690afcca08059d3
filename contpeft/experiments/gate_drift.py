"""What became of earlier tasks because gates have moved, apart from what adapters and heads have done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from torch import Tensor
from torch.nn import functional as F

from contpeft.experiments.measure import Measure
from contpeft.experiments.report.stages import STAGE
from contpeft.spec import Composition, Gated, Score
from contpeft.store import Step
from contpeft.strategies.gating import gate_weights

__all__ = ["GATES_OF_THEN", "GateHistory", "moved"]

GATES_OF_THEN: Final = f"{STAGE}gates-moved"
"""The name of the answer in which every task has the gates that it was learnt with, and the head of now."""


@dataclass(frozen=True)
class GateHistory:
    """The gates with which each task of a way was learnt: those of its main answer then.

    Adapters with gates stay as they are, so that below the head nothing changes but their weights.

    Attributes:
        then: index of each task so far to what answered right after it; empty for a way without gates.
    """

    then: Mapping[int, Gated]

    @classmethod
    def of(cls, earlier: Iterable[Step], step: int, now: Mapping[str, Composition]) -> GateHistory:
        """Returns the history of a way.

        Args:
            earlier: its finished steps.
            step: the index of the task just learnt.
            now: what answers after it.
        """
        told = {each.step: each.answers.get("main") for each in earlier if each.step < step}
        found = {**told, step: now.get("main")}
        gated = {index: main for index, main in found.items() if isinstance(main, Gated)}
        return cls(gated if len(gated) == len(found) else {})

    def drift(self, measure: Measure) -> dict[str, dict[str, float]]:
        """Returns what :func:`moved` says of the test rows of each earlier task, by the task's name."""
        found, context = {}, measure.context
        for index, then in list(self.then.items())[:-1]:
            test = measure.stream[index].test
            rows = context.features.embedded(test.inputs, test.digest())
            weights = [gate_weights(each, context.load, rows) for each in (then, self._now)]
            found[measure.stream[index].name] = moved(*weights)
        return found

    def scores(self, measure: Measure, now: Sequence[Score]) -> list[Score]:
        """Returns the scores of the answer :data:`GATES_OF_THEN`: what would be if no gate had moved.

        Args:
            measure: measures the way after its last task.
            now: what it has just measured, from which the last task's scores are copied.
        """
        last = max(self.then, default=-1)
        answerer = measure.answerer()
        told = [
            score
            for index, then in self.then.items()
            if index != last
            for protocol in measure.protocols
            for score in measure.cell(
                GATES_OF_THEN, replace(then, head=self._now.answering), last, index, protocol, answerer
            )
        ]
        own = measure.stream[last].name if self.then else None
        same = [score for score in now if (score.answer, score.task) == ("main", own)]
        return [*told, *(replace(score, answer=GATES_OF_THEN, copied=True) for score in same)]

    @property
    def _now(self) -> Gated:
        return self.then[max(self.then)]


def moved(then: Tensor, now: Tensor) -> dict[str, float]:
    """Returns how far weights have moved: the sum of ``|now - then|`` over adapters, the mean over rows.

    Args:
        then: ``(n, N)``.
        now: ``(n, M)`` with ``M >= N``; of adapters that came later the weight was 0.

    Returns:
        ``"earlier"``, the part of the first ``N`` adapters, and ``"later"``, that of the others.
    """
    change = (now - F.pad(then, (0, now.shape[1] - then.shape[1]))).abs().double()
    parts = {"earlier": change[:, : then.shape[1]], "later": change[:, then.shape[1] :]}
    return {name: float(part.sum(1).mean()) for name, part in parts.items()}
