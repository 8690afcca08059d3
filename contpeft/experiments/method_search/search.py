"""Looking for the adapter method by running the sequence with one after the other.

Each trial is the experiment with another adapter, run by the sequence runner in a store of its own, which is
deleted when the trial ends. What was measured is kept step by step in the experiment's store. Trials are a
function of the search's seed and of the scores so far: one that was killed goes on where it was.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch

from contpeft.adapters import AdaptedModel
from contpeft.adapters.cost import base_parameters
from contpeft.digest import json_digest
from contpeft.errors import ContpeftError, SpecError, TrainingError, UnsupportedError, UsageError
from contpeft.experiments.config import Experiment
from contpeft.experiments.method_search.ledger import Ledger
from contpeft.experiments.method_search.outcome import MethodSearchResult, MethodTrial
from contpeft.experiments.method_search.space import Candidate, MethodSpace
from contpeft.experiments.method_search.study import Proposal, Pruner, Study
from contpeft.experiments.method_search.variants import Settled, Variants
from contpeft.experiments.method_search.watch import (
    Observe,
    OutOfTimeError,
    StoppedError,
    Watch,
    check_time,
)
from contpeft.experiments.runner import run_experiment
from contpeft.experiments.tasks import TaskStream
from contpeft.store import AdapterStore
from contpeft.strategies import find_recipe

__all__ = ["search_methods"]

# In the store's folder: the stores of the trials.
_FOLDER: Final = "search"


def search_methods(
    variants: Variants,
    space: MethodSpace,
    *,
    trials: int = 20,
    pruner: Pruner = "median",
    timeout: float | None = None,
    observe: Observe | None = None,
) -> MethodSearchResult:
    """Returns what adapters of a space score on a task sequence, the promising ones tried first.

    Trials are proposed by a tree-structured Parzen estimator (Bergstra et al. 2011, Algorithms for
    hyper-parameter optimization), after one of each method. They learn from a part of the training rows and
    are measured on the others; no test row is read. After each task the mean over the tasks so far is
    compared with that of other trials, and one that does badly is stopped.

    Args:
        variants: the experiment.
        space: what is tried.
        trials: how many, those of earlier calls included.
        pruner: who stops trials: ``"median"``, worse after a task than the median of those that finished;
            ``"halving"``, not in the better half after 1, 2, 4, ... tasks (asynchronous successive halving,
            Li et al. 2020); or ``"none"``.
        timeout: seconds after which no task is begun; a trial that is not finished goes on in the next call.
        observe: is told of each trial after each of its tasks, and of its end.

    Raises:
        NotFoundError: if optuna is not installed, or there is no such strategy.
        UsageError: if ``trials`` is below 1, or a method cannot be had within the budget.
        ConfigError: if the experiment has no learning rate to search, or too few rows to hold some out.
        ContpeftError: if no trial was finished.
    """
    if trials < 1:
        raise UsageError(f"trials is {trials}; it must be at least 1")
    settled = variants.settled()
    if space.rates is not None:
        settled.check_rates()
    deadline = None if timeout is None else time.monotonic() + timeout
    result = _Search(settled, space, pruner).search(trials, deadline, observe or (lambda _trial: None))
    if result.best is None:
        refused = [each.refused for each in result.trials if each.refused]
        why = f": {refused[-1]}" if refused else "; give it more time, the same call goes on"
        raise ContpeftError(f"none of {len(result.trials)} trials was finished{why}")
    return result


class _Search:
    """One search on its way."""

    def __init__(self, settled: Settled, space: MethodSpace, pruner: Pruner) -> None:
        self._settled, self._seed = settled, space.seed
        self._plain = plain = settled.experiment()
        torch.set_num_threads(plain.threads)
        self._stream = plain.stream.build(plain.seed)
        adapted = AdaptedModel.of(plain.make_module())
        candidates = space.candidates(plain.adapter, adapted.model, adapted.head)
        parameters = base_parameters(adapted.model, adapted.head)
        self._study = Study(space, candidates, parameters, plain.learning_rate, pruner)
        self._config = _config(plain, self._stream, settled, space, candidates, pruner)
        self._run_name = f"{plain.name}.search-{json_digest(self._config)[:8]}"
        self._store = AdapterStore(plain.store)
        steps = 1 if find_recipe(settled.strategy).joint else len(self._stream)
        self._ledger = Ledger(self._store, self._run_name, steps, parameters)

    def search(self, count: int, deadline: float | None, observe: Observe) -> MethodSearchResult:
        """Tries until there are ``count`` trials, or time is up."""
        self._store.start_run(
            self._run_name,
            config=self._config,
            seed=self._seed,
            tasks=[data.task for data in self._stream],
            scenario=self._stream.scenario,
        )
        done: list[MethodTrial] = []
        try:
            for trial in self._trials(count, deadline, observe):
                done.append(trial)
        except OutOfTimeError:
            pass
        finally:
            self._store.finish_run(self._run_name, "finished" if len(done) == count else "interrupted")
        rows = {data.name: len(data.test) for data in self._stream}
        told = self._settled.strategy, self._settled.protocol
        return MethodSearchResult(self._run_name, *told, tuple(rows), rows, tuple(done))

    def _trials(self, count: int, deadline: float | None, observe: Observe) -> Iterator[MethodTrial]:
        known: dict[tuple[Any, float | None], MethodTrial] = {}
        for number in range(count):
            proposal = self._study.propose(number, self._ledger.proposed(number))
            settings = proposal.trial.adapter, proposal.trial.rate
            before = self._ledger.trial(number) or known.get(settings)
            ended = before is not None and before.state != "running"
            if before and ended:
                trial = replace(before, number=number, adapter=proposal.trial.adapter)
            else:
                trial = self._run(proposal, deadline, observe)
            self._study.tell(proposal.asked, trial, measured_now=not ended)
            self._forget(number)
            known[settings] = trial
            observe(trial)
            yield trial

    def _run(self, proposal: Proposal, deadline: float | None, observe: Observe) -> MethodTrial:
        """Runs the sequence with what was proposed, or goes on with it."""
        trial = proposal.trial
        experiment = self._settled.experiment(trial.adapter, trial.rate)
        experiment = replace(experiment, store=self._folder(trial.number))
        watch = Watch(self._ledger, proposal, experiment, deadline, observe)
        check_time(deadline)
        try:
            run_experiment(experiment, watch)
        except StoppedError:
            pass
        except (SpecError, UnsupportedError, TrainingError) as error:
            place = len(watch.trial.scores)
            task = self._stream[min(place, len(self._stream) - 1)].name
            return self._ledger.write(trial, proposal.asked.params, place, task=task, refused=str(error))
        return watch.trial

    def _folder(self, number: int) -> Path:
        return self._plain.store / _FOLDER / self._run_name / f"trial-{number}"

    def _forget(self, number: int) -> None:
        """Deletes the adapters of a trial that has ended, and folders that are empty then."""
        folder = self._folder(number)
        if not folder.exists():
            return
        shutil.rmtree(folder)
        for above in (folder.parent, folder.parent.parent):
            if not any(above.iterdir()):
                above.rmdir()


def _config(
    plain: Experiment,
    stream: TaskStream,
    settled: Settled,
    space: MethodSpace,
    candidates: Mapping[str, tuple[Candidate, ...]],
    pruner: Pruner,
) -> dict[str, Any]:
    """Returns what makes it this search: calls that have it in common go on with each other's trials."""
    tried = {name: [each.spec.to_json() for each in found] for name, found in candidates.items()}
    way = {"strategy": settled.strategy, "protocol": settled.protocol}
    searched = {"tried": tried, "rates": space.rates and list(space.rates), "pruner": pruner}
    experiment = plain.identity() | {"seed": plain.seed, "data": stream.digest()}
    return {"experiment": experiment, **way, **searched, "seed": space.seed}
