"""Rows of no known task are told by their fit, against thresholds of every task's own examples."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from strategies_tiny import TASKS, Way, examples, learnt, training

from contpeft.adapters import StatisticsHead
from contpeft.errors import SpecError
from contpeft.metrics.rejection import auroc, false_rejection
from contpeft.spec import Base
from contpeft.store import AdapterStore
from contpeft.strategies import GatherStatistics, KeepThresholds, Rejection, Then, find_recipe

RULES = ("class-means", "lda", "mahalanobis")


@pytest.fixture(scope="module")
def way(tmp_path_factory: pytest.TempPathFactory) -> Way:
    """Statistics, and thresholds at the worst tenth of every task's examples, by three rules."""
    store = AdapterStore(tmp_path_factory.mktemp("ways") / "store")
    kept = tuple(KeepThresholds(rule, 10.0) for rule in RULES)
    recipe = replace(find_recipe("ncm"), consolidate=Then((GatherStatistics(rules=RULES), *kept)))
    return learnt(store, recipe)


def scores(way: Way, rule: str, step: int, inputs: list) -> np.ndarray:
    """Returns the fit of every task, from the head's scores, in numpy."""
    state = way.store.load(f"way.{rule}@{step + 1}")
    features = way.context(0).features.base(inputs, str(inputs))
    found = StatisticsHead(state.head, state.head_tensors())(features).numpy()
    if rule == "lda":
        found = found - np.log(np.exp(found).sum(1, keepdims=True))
    return np.stack([found[:, 2 * k : 2 * k + 2].max(1) for k in range(step + 1)], 1)


@pytest.mark.parametrize("rule", RULES)
def test_a_threshold_is_a_percentile_of_the_tasks_own_examples(way: Way, rule: str) -> None:
    kept = way.store.load(f"way.{rule}-thresholds@3").tensors["thresholds"].numpy()
    expected = [
        np.percentile(scores(way, rule, step, training(task.classes).inputs)[:, step], 10)
        for step, task in enumerate(TASKS)
    ]
    np.testing.assert_allclose(kept, expected, rtol=1e-8, atol=1e-9)
    earlier = way.store.load(f"way.{rule}-thresholds@2").tensors["thresholds"]
    assert torch.equal(torch.from_numpy(kept[:2]), earlier)  # a later task changes none


@pytest.mark.parametrize("rule", RULES)
def test_a_row_is_unknown_below_the_threshold_of_its_best_task(way: Way, rule: str) -> None:
    context, (inputs, _) = way.context(0), examples("abcdef", 10, seed=4)
    rejection = Rejection.stored(f"way.{rule}@3", f"way.{rule}-thresholds@3", context.load)
    assert rejection.reads == (Base(),)
    judged = rejection.judge(context.features.through(rejection.reads, context.load, inputs, str(inputs)))
    fits = scores(way, rule, 2, inputs)
    kept = way.store.load(f"way.{rule}-thresholds@3").tensors["thresholds"].numpy()
    np.testing.assert_allclose(judged.score.numpy(), fits.max(1), rtol=1e-8, atol=1e-9)
    assert judged.task.tolist() == fits.argmax(1).tolist()
    assert judged.unknown.tolist() == (fits.max(1) < kept[fits.argmax(1)]).tolist()
    assert judged.unknown.any()
    assert not judged.unknown.all()


def test_noise_fits_worse_than_what_was_learnt(way: Way) -> None:
    context = way.context(0)
    rejection = Rejection.stored("way.class-means@3", "way.class-means-thresholds@3", context.load)
    noise = [
        tuple(row) for row in torch.randint(64, (60, 6), generator=torch.Generator().manual_seed(0)).tolist()
    ]
    known, unknown = (
        rejection.judge(context.features.base(inputs, str(inputs)))
        for inputs in (examples("abcdef", 10, seed=4)[0], noise)
    )
    assert auroc(known.score, unknown.score) > 0.65
    assert unknown.unknown.float().mean() > known.unknown.float().mean()
    train = training("ef").inputs
    own = rejection.judge(context.features.base(train, str(train)))
    kept = way.store.load("way.class-means-thresholds@3").tensors["thresholds"]
    assert (
        false_rejection(own.score, kept[own.task]) <= 0.125 + 1e-9
    )  # two of sixteen, at the tenth percentile


def test_what_does_not_belong_together_is_refused(way: Way) -> None:
    load = way.context(0).load
    with pytest.raises(
        SpecError, match=r"^way\.lda-thresholds@3 holds no thresholds of the rule 'class-means'"
    ):
        Rejection.stored("way.class-means@3", "way.lda-thresholds@3", load)
    with pytest.raises(SpecError, match=r"^there are 2 thresholds for 3 tasks; give one for each$"):
        Rejection.stored("way.lda@3", "way.lda-thresholds@2", load)
    with pytest.raises(
        SpecError, match=r"^way\.lda-thresholds@2 holds no class statistics; it fits no task$"
    ):
        Rejection.stored("way.lda-thresholds@2", "way.lda@3", load)


def test_thresholds_need_statistics_gathered_before(store: AdapterStore) -> None:
    recipe = replace(find_recipe("ncm"), consolidate=KeepThresholds("lda"))
    with pytest.raises(
        SpecError, match=r"^thresholds are of statistics gathered just before, and none of the"
    ):
        Way(store, recipe).learn(0)
