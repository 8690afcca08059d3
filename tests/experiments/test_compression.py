"""What compressing costs in accuracy: measured on guests, equal to what the stored ones score."""

from __future__ import annotations

from pathlib import Path

import pytest
from evaluation_files import BILLING, BOTH, TRAVEL, headless, register

from contpeft.errors import UsageError
from contpeft.experiments.compression import Measured, measure
from contpeft.experiments.config import load_evaluation
from contpeft.experiments.evaluation import Evaluation
from contpeft.store import AdapterStore


@pytest.fixture
def evaluation(support: AdapterStore) -> Evaluation:
    return Evaluation(load_evaluation(Path(support.path).parent / "eval.yaml"), support)


@pytest.mark.parametrize("budget", [0.3, 0.98])
def test_what_is_measured_is_what_the_stored_ones_score(
    support: AdapterStore, evaluation: Evaluation, budget: float
) -> None:
    planned = support.compression.plan([BILLING, TRAVEL, BOTH], budget)
    found = measure(evaluation, planned)
    assert [each.ref for each in found] == [BILLING, TRAVEL, BOTH]
    assert [each.tasks for each in found] == [1, 1, 2]
    stored = support.compression.store(planned)
    by_name = {task.name: task for task in evaluation.tasks}
    own = [[by_name["billing"]], [by_name["travel"]], list(by_name.values())]
    for each, before, after, tasks in zip(found, (BILLING, TRAVEL, BOTH), stored.refs, own, strict=True):
        scores = [[evaluation.score(ref, task) for task in tasks] for ref in (before, after)]
        assert each.before == pytest.approx(sum(scores[0]) / len(tasks))
        assert each.after == pytest.approx(sum(scores[1]) / len(tasks))


def test_a_loss_is_what_is_missing() -> None:
    assert Measured("a@1", 2, 0.75, 0.5).loss == 0.25
    assert Measured("a@1", 2, 0.5, 0.75).loss == -0.25


def test_a_version_that_answers_nothing_is_named(support: AdapterStore, evaluation: Evaluation) -> None:
    for name, ref in (("bare", BILLING), ("bald", TRAVEL)):
        state = headless(support.load(ref))
        support.register(name, state, base=support.show(ref).base)
    register(support, "child", headless(support.load(BOTH)), BOTH)
    planned = support.compression.plan(["child", "bare"], 0.9)
    with pytest.raises(
        UsageError, match="bare@1 answers no task of the evaluation, so it cannot be measured"
    ):
        measure(evaluation, planned)
