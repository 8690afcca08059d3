"""What a search remembers: every step of every trial, as a step of a run of its own in the store.

A trial is a way of this run. Its adapters are never in this store; its scores are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from contpeft.experiments.method_search.outcome import MethodTrial, State
from contpeft.spec import AdapterSpec, Score
from contpeft.store import AdapterStore, Step

__all__ = ["Ledger"]


@dataclass(frozen=True)
class Ledger:
    """The steps of one search.

    Attributes:
        store: where they are.
        run: the run of the search.
        steps: how many steps a trial has that is not stopped.
        parameters: number of the base's parameters.
    """

    store: AdapterStore
    run: str
    steps: int
    parameters: int

    def proposed(self, number: int) -> Mapping[str, Any] | None:
        """Returns what the sampler proposed for a trial; None if no step of it is known."""
        done = self._done(number)
        return done[0].detail["proposed"] if done else None

    def trial(self, number: int) -> MethodTrial | None:
        """Returns a trial as far as it is known; None if no step of it is."""
        done = self._done(number)
        if not done:
            return None
        told = done[-1].detail
        scores = self.store.scores(run=self.run, way=_way(number))
        rows = (tuple(s.value for s in scores if s.step == step.step) for step in done)
        return MethodTrial(
            number=number,
            adapter=AdapterSpec.from_json(told["adapter"]),
            rate=told["rate"],
            trained=told["trained"],
            share=told["trained"] / self.parameters,
            scores=tuple(row for row in rows if row),
            seconds=sum(step.seconds for step in done),
            state=self._state(told, len(done)),
            refused=told["refused"],
        )

    def write(
        self,
        trial: MethodTrial,
        proposed: Mapping[str, Any],
        step: int,
        *,
        task: str,
        scores: Sequence[Score] = (),
        seconds: float = 0.0,
        stopped: bool = False,
        refused: str | None = None,
    ) -> MethodTrial:
        """Keeps one step of a trial and returns the trial with it; written again it changes nothing.

        Args:
            trial: the trial.
            proposed: what the sampler proposed for it.
            step: from 0.
            task: what was learnt.
            scores: what was measured after it, in the trial's own store.
            seconds: how long it took.
            stopped: whether the trial ends here because it is not promising.
            refused: why it ends here; None if it does not.
        """
        here = [replace(s, run=self.run, way=_way(trial.number), step=step, copied=True) for s in scores]
        told = {"adapter": trial.adapter.to_json(), "rate": trial.rate, "trained": trial.trained}
        self.store.finish_step(
            self.run,
            _way(trial.number),
            step,
            task=task,
            answers={},
            versions=[],
            scores=here,
            seconds=seconds,
            detail={**told, "proposed": dict(proposed), "stopped": stopped, "refused": refused},
        )
        known = self.trial(trial.number)
        assert known is not None
        return replace(known, adapter=trial.adapter)  # its options in their own order

    def _state(self, told: Mapping[str, Any], done: int) -> State:
        if told["refused"] is not None:
            return "refused"
        if told["stopped"]:
            return "stopped"
        return "finished" if done == self.steps else "running"

    def _done(self, number: int) -> list[Step]:
        return self.store.steps(self.run, _way(number))


def _way(number: int) -> str:
    return f"trial-{number}"
