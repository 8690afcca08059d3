"""Watching a trial: what it scores after each task is kept, and decides whether it goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import fmean

from contpeft.experiments.config import Experiment
from contpeft.experiments.method_search.ledger import Ledger
from contpeft.experiments.method_search.outcome import MethodTrial
from contpeft.experiments.method_search.study import Proposal
from contpeft.experiments.progress import Progress
from contpeft.spec import TASK_HITS
from contpeft.store import AdapterStore

__all__ = ["Observe", "OutOfTimeError", "StoppedError", "Watch", "check_time"]

Observe = Callable[[MethodTrial], None]
"""Is told of a trial after each of its tasks."""


class StoppedError(Exception):
    """A trial ends before its last task."""


class OutOfTimeError(Exception):
    """The search ends before the next task."""


class Watch:
    """Keeps what a trial scores after each task, and says when it is to stop.

    Args:
        ledger: where it is kept.
        proposal: the trial.
        experiment: what is run for it.
        deadline: when no other task is begun, on the monotonic clock; None for never.
        observe: is told after each task.

    Attributes:
        trial: the trial as far as it has come.
    """

    def __init__(
        self,
        ledger: Ledger,
        proposal: Proposal,
        experiment: Experiment,
        deadline: float | None,
        observe: Observe,
    ) -> None:
        self.trial = proposal.trial
        self._ledger, self._asked, self._experiment = ledger, proposal.asked, experiment
        self._deadline, self._observe = deadline, observe

    def __call__(self, at: Progress) -> None:
        """Looks at a task that was just learnt, or had been in an earlier call.

        Raises:
            StoppedError: if the trial is not promising.
            OutOfTimeError: if the time is up.
        """
        if at.phase not in ("finished", "kept"):
            return
        more = at.step + 1 < at.steps
        stopped = self._keep(at.step, more)
        if stopped:
            raise StoppedError
        if more:
            self._observe(self.trial)
            check_time(self._deadline)

    def _keep(self, place: int, more: bool) -> bool:
        """Writes the step down; returns whether the trial ends with it."""
        store, way = AdapterStore(self._experiment.store, create=False), self._experiment.strategies[0]
        step = store.steps(self._experiment.name, way)[place]
        scores = [
            score
            for score in store.scores(run=self._experiment.name, way=way)
            if (score.step, score.kind, score.answer) == (step.step, "end", "main")
            if score.metric != TASK_HITS
        ]
        store.close()
        self._asked.report(fmean(score.value for score in scores), place + 1)
        stopped = bool(self._asked.should_prune()) and more
        self.trial = self._ledger.write(
            self.trial,
            self._asked.params,
            place,
            task=step.task,
            scores=scores,
            seconds=step.seconds,
            stopped=stopped,
        )
        return stopped


def check_time(deadline: float | None) -> None:
    """Raises :class:`OutOfTimeError` after the deadline."""
    if deadline is not None and time.monotonic() > deadline:
        raise OutOfTimeError
