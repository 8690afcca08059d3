"""Searching merges: what is tried, that nothing is measured twice, and that what is stored was measured."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from evaluation_files import BILLING, BOTH, TRAVEL, headless, noisy, register
from torch.nn import functional as F

from contpeft.adapters import AdaptedModel
from contpeft.errors import ContpeftError, NotFoundError, SpecError, UsageError
from contpeft.experiments.config import load_evaluation
from contpeft.experiments.evaluation import Evaluation
from contpeft.experiments.search import best_candidate, search
from contpeft.experiments.search_space import ParentScores, SearchResult, Space, Trial, lorahub
from contpeft.store import AdapterStore, Request
from contpeft.strategies import Answerer

REFS = (BILLING, TRAVEL)


def evaluation(store: AdapterStore, **options: Any) -> Evaluation:
    return Evaluation(load_evaluation(store.path.parent / "eval.yaml"), store, **options)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes every version or guest that answers."""
    asked: list[str] = []
    scores = Answerer.scores

    def noting(self: Answerer, single: Any, *arguments: Any) -> Any:
        asked.append(single.ref)
        return scores(self, single, *arguments)

    monkeypatch.setattr(Answerer, "scores", noting)
    return asked


class TestOnRealVersions:
    def test_every_trial_is_what_its_merge_scores(self, support: AdapterStore) -> None:
        space = Space(REFS, rules=("sum", "ties", "tsv"))
        result = search(evaluation(support), support, space, trials=6)
        assert [trial.rule for trial in result.trials[:3]] == ["sum", "ties", "tsv"]
        assert [trial.weights for trial in result.trials[:3]] == [(0.5, 0.5), (1.0, 1.0), (1.0, 1.0)]
        asked = evaluation(support)
        for trial in result.trials:
            made = support.fusion.candidate(Request(REFS, trial.weights, trial.rule, rank=trial.rank))
            with asked.guest(made.state, REFS) as ref:
                assert trial.scores == tuple(sum(asked.correct(ref, t)) / 16 for t in asked.tasks)

    def test_parents_are_measured_on_their_own_tasks(self, support: AdapterStore) -> None:
        register(support, "fused", headless(support.load(BILLING)), BILLING, TRAVEL, fused=True)
        result = search(evaluation(support), support, Space((*REFS, "fused")), trials=1)
        asked = evaluation(support)
        own = asked.score(BILLING, asked.tasks[0]), asked.score(TRAVEL, asked.tasks[1])
        assert [each.scores for each in result.parents[:2]] == [(own[0], None), (None, own[1])]
        assert result.parents[2].ref == "fused@1"
        assert None not in result.parents[2].scores

    def test_a_search_is_a_function_of_its_seed(self, support: AdapterStore) -> None:
        results = [
            search(evaluation(support), support, Space(REFS, seed=seed), trials=9) for seed in (0, 0, 1)
        ]
        assert results[0] == results[1]
        assert results[0].trials != results[2].trials

    def test_a_search_that_was_stopped_goes_on(self, support: AdapterStore, counted: list[str]) -> None:
        stop = RuntimeError("stopped")

        def stopping(trial: Trial) -> None:
            if trial.number == 4:
                raise stop

        space = Space(REFS, rules=("sum",), ranks=("full",))
        with pytest.raises(RuntimeError, match="stopped"):
            search(evaluation(support), support, space, trials=9, observe=stopping)
        measured = len(counted)
        whole = search(evaluation(support), support, space, trials=9)
        assert len(counted) == measured + 2 * 5
        again = search(evaluation(support), support, space, trials=9)
        assert len(counted) == measured + 2 * 5  # the four trials that were left, and no adapter at all
        assert again == whole
        assert search(evaluation(support), support, space, trials=6).trials == whole.trials[:6]

    def test_fixed_weights_and_rank_stay_and_others_are_in_bounds(self, support: AdapterStore) -> None:
        fixed = search(
            evaluation(support), support, Space(REFS, weights=(1.0, 0.25), ranks=("same",)), trials=8
        )
        assert {(t.weights, t.rank) for t in fixed.trials} == {((1.0, 0.25), "same")}
        free = search(evaluation(support), support, Space(REFS, rules=("sum",), bounds=(0.2, 0.4)), trials=8)
        assert all(0.2 <= weight <= 0.4 for t in free.trials[1:] for weight in t.weights)

    def test_the_best_is_stored_as_measured_and_can_be_made_again(self, support: AdapterStore) -> None:
        space = Space(REFS, rules=("sum", "ties"))
        asked = evaluation(support)
        result = search(asked, support, space, trials=6)
        before = support.versions()
        candidate = best_candidate(support, space, result)
        assert support.versions() == before
        version = support.fusion.keep(candidate, "found")
        assert tuple(asked.score(version.ref, task) for task in asked.tasks) == result.best.scores
        assert version.recipe is not None
        assert version.recipe["search"] == {
            **{"trials": 6, "seed": 0, "goal": "score"},
            **{"mean": result.best.mean, "worst": result.best.worst, "loss": None},
        }
        assert support.fusion.verify(version.ref).equal

    def test_the_search_finds_what_outdoes_the_plain_merge(self, support: AdapterStore) -> None:
        """One of the two is noise: no weight on it is the best there is, half of it is bad."""
        register(support, "noise", noisy(support.load(TRAVEL), 0.6), TRAVEL)
        space = Space((BOTH, "noise"), rules=("sum",), ranks=("full",))
        result = search(evaluation(support, heads={}), support, space, trials=25)
        assert result.best.mean > result.trials[0].mean


class TestRefusals:
    def test_a_merge_that_cannot_be_is_told_and_passed_over(self, support: AdapterStore) -> None:
        space = Space((*REFS, BOTH), rules=("slerp", "sum"))
        asked = evaluation(support, heads={"billing": BILLING, "travel": TRAVEL})
        result = search(asked, support, space, trials=4)
        assert result.trials[0].refused is not None
        assert "slerp" in result.trials[0].refused
        assert all(trial.rule == "sum" for trial in result.measured)

    def test_if_none_can_be_the_reason_is_told(self, support: AdapterStore) -> None:
        asked = evaluation(support, heads={"billing": BILLING, "travel": TRAVEL})
        with pytest.raises(UsageError, match=r"none of 2 merges was possible: .*slerp"):
            search(asked, support, Space((*REFS, BOTH), rules=("slerp",)), trials=2)

    def test_what_is_no_matter_of_merging_stops_the_search(self, support: AdapterStore) -> None:
        with pytest.raises(SpecError, match=r"^the merged adapter has no head, and none .* of task 'travel'"):
            search(evaluation(support), support, Space((BILLING,)), trials=2)
        with pytest.raises(UsageError, match="trials is 0; it must be at least 1"):
            search(evaluation(support), support, Space(REFS), trials=0)
        with pytest.raises(NotFoundError, match="no adapter 'nobody'"):
            search(evaluation(support), support, Space((BILLING, "nobody")), trials=1)

    def test_optuna_is_named_where_it_is_missing(
        self, support: AdapterStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "optuna", None)
        with pytest.raises(NotFoundError, match=r"pip install 'contpeft\[search\]'"):
            search(evaluation(support), support, Space(REFS), trials=1)

    def test_spaces_that_cannot_be(self) -> None:
        with pytest.raises(UsageError, match="parameters are of one rule"):
            Space(REFS, parameters={"density": 0.5})
        with pytest.raises(UsageError, match="there are 1 weights for 2 versions"):
            Space(REFS, weights=(1.0,))


class TestLoraHub:
    def test_it_starts_at_nothing_and_goes_for_the_penalised_loss(self, support: AdapterStore) -> None:
        asked = evaluation(support, rows=5)
        result = search(asked, support, lorahub(REFS), trials=6)
        assert result.trials[0].weights == (0.0, 0.0)
        assert all(abs(weight) <= 1.5 for trial in result.trials for weight in trial.weights)
        assert {(trial.rule, trial.rank) for trial in result.trials} == {("sum", "full")}
        for trial in result.trials[1:]:
            made = support.fusion.candidate(Request(REFS, trial.weights))
            with asked.guest(made.state, REFS) as ref:
                loss = sum(asked.loss(ref, task) for task in asked.tasks) / 2
            assert trial.loss == pytest.approx(loss + 0.05 * sum(map(abs, trial.weights)) / 2)
        assert result.best.loss == min(trial.loss for trial in result.trials if trial.loss is not None)

    def test_nothing_is_the_bare_base_with_the_heads(self, support: AdapterStore) -> None:
        asked = evaluation(support)
        result = search(asked, support, lorahub(REFS), trials=1)
        module = load_evaluation(support.path.parent / "eval.yaml").make_module().eval()
        losses = []
        for task, ref in zip(asked.tasks, REFS, strict=True):
            head = support.load(ref).tensors["head.weight"]
            with torch.no_grad():
                features = module.encode(module.collate(task.rows.inputs))  # type: ignore[operator]
            scores = 20 * F.normalize(features, dim=1) @ F.normalize(head, dim=1).T
            right = torch.tensor([task.task.classes.index(label) for label in task.rows.labels])
            losses.append(float(F.cross_entropy(scores, right)))
        assert result.trials[0].loss == pytest.approx(sum(losses) / 2, rel=1e-4)
        assert result.trials[0].scores == result.bare
        assert AdaptedModel.of(module).attachment is None
        with pytest.raises(ContpeftError, match="no weights were better than none"):
            best_candidate(support, lorahub(REFS), result)

    def test_losses_are_measured_once(self, support: AdapterStore, counted: list[str]) -> None:
        for _ in range(2):
            search(evaluation(support, rows=5), support, lorahub(REFS), trials=3)
            measured = len(counted)
        assert len(counted) == measured
        known = [s for s in support.scores() if s.metric == "cross_entropy"]
        assert len(known) == 2 * 3


class TestResults:
    def test_the_pareto_set_holds_what_nothing_else_beats(self) -> None:
        scores = [(1.0, 0.5), (0.7, 0.7), (0.6, 0.7), (1.0, 0.5), (0.4, 0.4)]
        trials = [Trial(n, "sum", (n / 10, 1.0), "full", each) for n, each in enumerate(scores)]
        result = SearchResult(("a", "b"), (), None, (*trials, Trial(5, "tsv", (1.0,), "full", refused="no")))
        assert [trial.number for trial in result.front] == [0, 1, 3]
        assert result.best.number == 0
        assert len(result.measured) == 5

    def test_one_merge_counts_once(self) -> None:
        trials = [Trial(n, "sum", (1.0,), "full", (0.5,)) for n in range(3)]
        assert SearchResult(("a",), (), None, tuple(trials)).measured == (trials[0],)

    def test_a_low_loss_is_the_best(self) -> None:
        trials = [
            Trial(n, "sum", (float(n),), "full", (1 - n / 10,), loss)
            for n, loss in enumerate((0.4, 0.2, 0.3))
        ]
        result = SearchResult(("a",), (), None, tuple(trials))
        assert (result.best.number, [t.number for t in result.front]) == (1, [1])

    def test_forgetting_is_the_mean_loss_on_a_parents_own_tasks(self) -> None:
        trial = Trial(0, "sum", (1.0,), "full", (0.5, 0.7, 0.9))
        assert ParentScores("a@1", (0.8, None, 0.7)).forgotten(trial) == pytest.approx(0.05)
        assert ParentScores("a@1", (None, None, None)).forgotten(replace(trial)) is None
