"""Looking for the best merge by measuring: rule, weights and rank, no gradients.

A search keeps nothing but scores, which are in the store. Its trials are a function of its seed and of the
scores so far, so that one that was killed takes the same path again and measures only what is new.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from statistics import fmean
from typing import Any, Final

import torch

from contpeft.errors import ContpeftError, SpecError, UnsupportedError, UsageError
from contpeft.experiments.evaluation import Evaluation
from contpeft.experiments.lending import with_head
from contpeft.experiments.optional import import_optuna
from contpeft.experiments.search_space import ParentScores, SearchResult, Space, Trial
from contpeft.merging import make_rule
from contpeft.spec import AdapterState, Task
from contpeft.store import AdapterStore, Candidate

__all__ = ["best_candidate", "search"]

_DECIMALS: Final = 3
# The largest rank is refused by rules that give matrices of full rank.
_LARGEST: Final = "full"
# The method whose tensors, all zero, change nothing.
_ZERO_IS_NOTHING: Final = "lora"


def search(
    evaluation: Evaluation,
    store: AdapterStore,
    space: Space,
    *,
    trials: int = 40,
    observe: Callable[[Trial], None] | None = None,
) -> SearchResult:
    """Returns what merges of a space score, the promising ones tried first.

    Trials are proposed by a tree-structured Parzen estimator (Bergstra et al. 2011, Algorithms for
    hyper-parameter optimization), for several goals after Ozaki et al. (2022). The first are the plain
    merges by each rule.

    Args:
        evaluation: the tasks, the model and the store.
        store: where the versions are.
        space: what is tried, and what for.
        trials: how many merges.
        observe: is told of each one.

    Raises:
        NotFoundError: if optuna is not installed, or there is no such version.
        UsageError: if ``trials`` is below 1, or none of the merges was possible.
        SpecError: if no head answers a task, or several could.
    """
    if trials < 1:
        raise UsageError(f"trials is {trials}; it must be at least 1")
    space = replace(space, refs=tuple(map(evaluation.resolve, space.refs)))
    looking = _Search(evaluation, store, space)
    parents = tuple(map(looking.parent, space.refs))
    done = []
    for trial in looking.trials(trials):
        done.append(trial)
        if observe:
            observe(trial)
    tasks = tuple(task.name for task in evaluation.tasks)
    result = SearchResult(tasks, parents, looking.bare(), tuple(done))
    if not result.measured:
        raise UsageError(f"none of {len(done)} merges was possible: {done[-1].refused}")
    return result


def best_candidate(store: AdapterStore, space: Space, result: SearchResult) -> Candidate:
    """Returns the best merge of a search, not stored yet; its recipe tells of the search.

    Raises:
        ContpeftError: if nothing was better than no adapter at all.
    """
    best = result.best
    if not any(best.weights):
        raise ContpeftError("no weights were better than none at all; nothing is merged")
    made = store.fusion.candidate(space.request(best.rule, best.weights, best.rank))
    told = {"trials": len(result.trials), "seed": space.seed, "goal": space.goal}
    measured = {"mean": best.mean, "worst": best.worst, "loss": best.loss}
    return replace(made, recipe={**made.recipe, "search": {**told, **measured}})


class _Search:
    """One search on its way."""

    def __init__(self, evaluation: Evaluation, store: AdapterStore, space: Space) -> None:
        self._evaluation = evaluation
        self._store = store
        self._space = space
        self._optuna = import_optuna("searching a merge")

    def parent(self, ref: str) -> ParentScores:
        """Returns how a version does by itself on its own tasks."""
        own = (
            self._evaluation.score(ref, task) if self._answers(ref, task.task) else None
            for task in self._evaluation.tasks
        )
        return ParentScores(ref, tuple(own))

    def bare(self) -> tuple[float, ...] | None:
        """Returns the scores of no adapter at all, answering with the versions' heads."""
        state = self._store.load(self._space.refs[0])
        if state.kind != _ZERO_IS_NOTHING:
            return None
        with self._guest(_nothing(state)) as ref:
            return tuple(self._evaluation.score(ref, task) for task in self._evaluation.tasks)

    def _answers(self, ref: str, task: Task) -> bool:
        try:
            with_head(self._store.show(ref), task, self._store.show, {})
        except SpecError:  # neither its head nor one up its lineage
            return False
        return True

    def trials(self, count: int) -> Iterator[Trial]:
        """Yields what was tried, one after the other."""
        optuna = self._optuna
        directions = ["maximize"] * (2 if self._space.goal == "score" else 1)
        sampler = optuna.samplers.TPESampler(seed=self._space.seed)
        study = optuna.create_study(directions=directions, sampler=sampler)
        for start in self._starts():
            study.enqueue_trial(start)
        for number in range(count):
            asked = study.ask()
            trial = self._tried(self._proposed(number, asked))
            if trial.refused is None:
                study.tell(asked, trial.values())
            else:
                study.tell(asked, state=optuna.trial.TrialState.FAIL)
            yield trial

    def _starts(self) -> Iterator[dict[str, Any]]:
        """Yields the plain merge by each rule."""
        space = self._space
        low, high = space.bounds
        for rule in space.rules:
            plain = 1 / len(space.refs) if rule == "sum" else 1.0
            each = min(max(plain if space.start is None else space.start, low), high)
            searched = space.refs if space.weights is None else ()
            yield {"rule": rule, **{_weight(ref): each for ref in searched}}

    def _proposed(self, number: int, asked: Any) -> Trial:
        space = self._space
        rule = asked.suggest_categorical("rule", space.rules)
        low, high = space.bounds
        weights = space.weights or tuple(
            round(asked.suggest_float(_weight(ref), low, high), _DECIMALS) for ref in space.refs
        )
        dense = make_rule(rule, space.parameters).dense
        ranks = [rank for rank in space.ranks if not (dense and rank == _LARGEST)] or space.ranks
        # The choices of one name must never change.
        rank = asked.suggest_categorical("rank cut" if dense else "rank", ranks)
        return Trial(number, rule, weights, rank)

    def _tried(self, trial: Trial) -> Trial:
        """Returns a trial with what was measured, or why it could not be merged."""
        try:
            state = self._merged(trial)
        except (SpecError, UnsupportedError) as error:
            return replace(trial, refused=str(error))
        with self._guest(state) as ref:
            scores = tuple(self._evaluation.score(ref, task) for task in self._evaluation.tasks)
            loss = self._loss(ref, trial) if self._space.goal == "loss" else None
        return replace(trial, scores=scores, loss=loss)

    def _merged(self, trial: Trial) -> AdapterState:
        if any(trial.weights) or self._space.start != 0:
            return self._store.fusion.candidate(
                self._space.request(trial.rule, trial.weights, trial.rank)
            ).state
        return _nothing(self._store.load(self._space.refs[0]))

    @contextmanager
    def _guest(self, state: AdapterState) -> Iterator[str]:
        # All versions lend their heads, those of weight 0 too.
        with self._evaluation.guest(state, self._space.refs) as ref:
            yield ref

    def _loss(self, ref: str, trial: Trial) -> float:
        loss = fmean(self._evaluation.loss(ref, task) for task in self._evaluation.tasks)
        return loss + self._space.penalty * fmean(map(abs, trial.weights))


def _weight(ref: str) -> str:
    return f"weight of {ref}"


def _nothing(state: AdapterState) -> AdapterState:
    """Returns an adapter that changes nothing.

    Raises:
        UnsupportedError: if zeros mean something else to its method.
    """
    if state.kind != _ZERO_IS_NOTHING:
        raise UnsupportedError(f"weights of 0 are a merge of LoRA adapters alone, this is {state.kind!r}")
    zeros = {name: torch.zeros_like(tensor) for name, tensor in state.adapter_tensors().items()}
    return replace(state, tensors=zeros, head=None)
