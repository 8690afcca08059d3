"""What optuna proposes for a search, and what it is told of the trials."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Final, Literal

from contpeft.digest import json_digest
from contpeft.experiments.method_search.outcome import MethodTrial
from contpeft.experiments.method_search.space import Candidate, MethodSpace
from contpeft.experiments.optional import import_optuna

__all__ = ["Proposal", "Pruner", "Study"]

Pruner = Literal["median", "halving", "none"]

# So many trials are drawn before the estimator proposes any, and finish before any is stopped.
_STARTUP: Final = 6
_UNTOUCHED: Final = 4


@dataclass(frozen=True)
class Proposal:
    """What is to be tried.

    Attributes:
        asked: optuna's trial.
        trial: what it means.
    """

    asked: Any
    trial: MethodTrial


class Study:
    """Proposals for one search, in order; the same scores always give the same ones.

    Args:
        space: what is tried.
        candidates: method to its adapters, the smallest first.
        parameters: number of the base's parameters.
        own_rate: the experiment's own learning rate, if it has one.
        pruner: who stops trials.

    Raises:
        NotFoundError: if optuna is not installed.
    """

    def __init__(
        self,
        space: MethodSpace,
        candidates: Mapping[str, tuple[Candidate, ...]],
        parameters: int,
        own_rate: float | None,
        pruner: Pruner,
    ) -> None:
        self._optuna = import_optuna("searching a method")
        self._space, self._candidates, self._parameters = space, candidates, parameters
        self._own_rate = own_rate
        self._study = self._optuna.create_study(direction="maximize", pruner=_pruner(self._optuna, pruner))

    def propose(self, number: int, begun: Mapping[str, Any] | None) -> Proposal:
        """Returns what is tried next.

        Args:
            number: of the trial, from 0.
            begun: what was proposed for it in an earlier call; None if nothing was.
        """
        # Seeded anew, so that what is proposed does not depend on how many calls the search took.
        seed = int(json_digest([self._space.seed, number])[:8], 16)
        self._study.sampler = self._optuna.samplers.TPESampler(seed=seed, n_startup_trials=_STARTUP)
        fixed = begun or self._first(number)
        if fixed is not None:
            self._study.enqueue_trial(dict(fixed))
        asked = self._study.ask()
        method = asked.suggest_categorical("method", self._space.methods)
        candidates = self._candidates[method]
        chosen = candidates[asked.suggest_int(f"size of {method}", 0, len(candidates) - 1)]
        rate = None if self._space.rates is None else self._rate(asked, method, *self._space.rates)
        share = chosen.trained / self._parameters
        return Proposal(asked, MethodTrial(number, chosen.spec, rate, chosen.trained, share))

    def tell(self, asked: Any, trial: MethodTrial, *, measured_now: bool) -> None:
        """Tells how a trial ended.

        Args:
            asked: optuna's trial.
            trial: what came of it.
            measured_now: whether its steps were reported as they were measured; if not, they are now.
        """
        if not measured_now:
            for place, scores in enumerate(trial.scores):
                asked.report(fmean(scores), place + 1)
                asked.should_prune()  # the pruner notes what it is asked about
        states = self._optuna.trial.TrialState
        if trial.state == "finished":
            self._study.tell(asked, trial.mean)
        else:
            self._study.tell(asked, state=states.PRUNED if trial.state == "stopped" else states.FAIL)

    def _rate(self, asked: Any, method: str, low: float, high: float) -> float:
        # Methods differ in the rate they need, so each has one of its own; two digits are as good as all.
        return float(f"{asked.suggest_float(f'rate of {method}', low, high, log=True):.2g}")

    def _first(self, number: int) -> dict[str, Any] | None:
        """Returns the trial that each method begins with: the middle size, the experiment's own rate."""
        if number >= len(self._space.methods):
            return None
        method = self._space.methods[number]
        first: dict[str, Any] = {"method": method, f"size of {method}": len(self._candidates[method]) // 2}
        if self._space.rates is not None and self._own_rate is not None:
            low, high = self._space.rates
            first[f"rate of {method}"] = min(max(self._own_rate, low), high)
        return first


def _pruner(optuna: Any, name: Pruner) -> Any:
    if name == "none":
        return optuna.pruners.NopPruner()
    if name == "halving":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
    return optuna.pruners.MedianPruner(n_startup_trials=_UNTOUCHED)
