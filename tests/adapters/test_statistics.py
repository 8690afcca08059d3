"""Class statistics: gathered in any order and cut they are the batch ones, and so are their classifiers."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import Tensor

from contpeft.adapters import ClassStatistics, Rule, StatisticsHead
from contpeft.errors import SpecError
from contpeft.spec import HeadSpec

WIDTH = 5


def sample(seed: int, n: int, labels: str) -> tuple[Tensor, list[str]]:
    """Returns ``n`` features around a centre per label, every label at least once."""
    generator = torch.Generator().manual_seed(seed)
    centres = {each: torch.randn(WIDTH, generator=generator) for each in "abcdef"}
    drawn = [labels[i] if i < len(labels) else labels[(i * 7 + seed) % len(labels)] for i in range(n)]
    noise = 0.5 * torch.randn(n, WIDTH, generator=generator)
    return torch.stack([centres[each] for each in drawn]) + noise, drawn


def unit(features: Tensor) -> np.ndarray:
    rows = features.double().numpy()
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def gathered(*tasks: tuple[Tensor, list[str]], size: int = 1000) -> ClassStatistics:
    statistics = ClassStatistics()
    for group, (features, labels) in enumerate(tasks):
        for start in range(0, len(labels), size):
            cut = slice(start, start + size)
            statistics.update(features[cut], labels[cut], group)
    return statistics


def by_entry(statistics: ClassStatistics) -> dict[tuple[str, int], tuple[float, np.ndarray]]:
    keys = zip(statistics.labels, statistics.groups, strict=True)
    counts, means = statistics.counts.tolist(), statistics.means.numpy()
    return {key: (counts[i], means[i]) for i, key in enumerate(keys)}


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(4, 40), st.randoms())
def test_they_equal_the_batch_computation_however_they_are_cut_and_ordered(
    seed: int, size: int, n: int, random: object
) -> None:
    tasks = [sample(seed, n, "abc"), sample(seed + 1, n + 3, "cd")]  # "c" is met in both
    order = [0, 1]
    random.shuffle(order)
    statistics = ClassStatistics()
    for group in order:
        features, labels = tasks[group]
        rows = list(range(len(labels)))
        random.shuffle(rows)
        for start in range(0, len(rows), size):
            cut = rows[start : start + size]
            statistics.update(features[cut], [labels[i] for i in cut], group)

    scatter = np.zeros((WIDTH, WIDTH))
    found = by_entry(statistics)
    assert found.keys() == {("a", 0), ("b", 0), ("c", 0), ("c", 1), ("d", 1)}
    for group, (features, labels) in enumerate(tasks):
        rows = unit(features)
        for label, count in Counter(labels).items():
            mine = rows[np.array(labels) == label]
            mean = mine.mean(0)
            scatter += (mine - mean).T @ (mine - mean)
            assert found[label, group][0] == count
            np.testing.assert_allclose(found[label, group][1], mean, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(statistics.scatter.numpy(), scatter, rtol=1e-10, atol=1e-12)
    assert statistics.scatter.dtype == statistics.means.dtype == torch.float64


def test_a_later_task_leaves_the_means_of_earlier_ones_bit_for_bit() -> None:
    first, second = sample(0, 20, "ab"), sample(1, 20, "bc")
    alone, both = gathered(first), gathered(first, second)
    assert torch.equal(both.means[:2], alone.means)
    assert torch.equal(both.counts[:2], alone.counts)


def test_going_on_from_stored_tensors_is_the_same_as_never_having_stopped() -> None:
    tasks = [sample(seed, 30, labels) for seed, labels in enumerate(("ab", "cd", "ae"))]
    straight, resumed = ClassStatistics(), ClassStatistics()
    for group, (features, labels) in enumerate(tasks):
        straight.update(features, labels, group)
        spec = HeadSpec.from_json(resumed.spec("class-means").to_json())
        resumed = ClassStatistics.from_stored(spec, resumed.tensors())
        resumed.update(features, labels, group)
    assert (straight.labels, straight.groups) == (resumed.labels, resumed.groups)
    for name, tensor in straight.tensors().items():
        assert torch.equal(tensor, resumed.tensors()[name])


def test_what_was_taken_out_is_not_changed_later() -> None:
    statistics = gathered(sample(0, 20, "ab"))
    taken = statistics.tensors()
    before = {name: tensor.clone() for name, tensor in taken.items()}
    went_on = ClassStatistics.from_stored(statistics.spec("lda"), taken)
    for each in (statistics, went_on):
        each.update(*sample(1, 20, "ab"), group=0)
    assert all(torch.equal(taken[name], before[name]) for name in taken)
    assert not torch.equal(statistics.scatter, before["scatter"])


def head(statistics: ClassStatistics, rule: Rule, shrinkage: float = 0.1) -> StatisticsHead:
    return StatisticsHead(statistics.spec(rule, shrinkage), statistics.tensors())


def test_class_means_score_by_cosine() -> None:
    features, labels = sample(0, 30, "abc")
    asked, _ = sample(1, 40, "abc")
    means = np.stack([unit(features)[np.array(labels) == each].mean(0) for each in "abc"])
    expected = unit(asked) @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T
    scores = head(gathered((features, labels)), "class-means")(asked)
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("shrinkage", [0.1, 0.5, 1.0])
def test_lda_is_the_discriminant_of_scikit_learn(shrinkage: float) -> None:
    """Equal counts: the pooled covariance is then the mean of the classes', which is what they shrink."""
    features, _ = sample(3, 60, "abc")
    labels = list("abc" * 20)
    asked, _ = sample(4, 80, "abc")
    oracle = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage, priors=[1 / 3] * 3)
    oracle.fit(unit(features), labels)
    scores = head(gathered((features, labels), size=7), "lda", shrinkage)(asked)
    theirs = oracle.decision_function(unit(asked)) - np.log(1 / 3)
    np.testing.assert_allclose(scores.numpy(), theirs, rtol=1e-8, atol=1e-9)
    assert list(np.array(list("abc"))[scores.argmax(1)]) == list(oracle.predict(unit(asked)))


def test_lda_with_unequal_counts_pools_by_count_and_keeps_priors_equal() -> None:
    features, _ = sample(3, 60, "abc")
    labels = ["a"] * 10 + ["b"] * 20 + ["c"] * 30
    asked, _ = sample(4, 80, "abc")
    oracle = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1).fit(unit(features), labels)
    scores = head(gathered((features, labels)), "lda")(asked)
    theirs = oracle.decision_function(unit(asked)) - np.log(np.array([10, 20, 30]) / 60)
    np.testing.assert_allclose(scores.numpy(), theirs, rtol=1e-8, atol=1e-9)


def test_shrunk_wholly_lda_is_the_nearest_mean() -> None:
    statistics = gathered(sample(0, 30, "abcd"))
    asked, _ = sample(1, 50, "abcd")
    distance = torch.cdist(torch.from_numpy(unit(asked)), statistics.means)
    assert torch.equal(head(statistics, "lda", 1.0)(asked).argmax(1), distance.argmin(1))


def test_a_route_is_the_task_of_the_best_entry() -> None:
    first, second = sample(0, 40, "ab"), sample(0, 40, "cd")
    router = head(gathered(first, second), "lda")
    assert router.groups == (0, 0, 1, 1)
    asked = torch.cat([first[0], second[0]])
    route = router.route(asked)
    assert torch.equal(route, torch.tensor([0, 0, 1, 1])[router(asked).argmax(1)])
    assert (route == torch.tensor([0] * 40 + [1] * 40)).float().mean() > 0.9
    shuffled = torch.randperm(80, generator=torch.Generator().manual_seed(0))
    assert torch.equal(router.route(asked[shuffled]), route[shuffled])


def test_one_task_is_always_the_answer() -> None:
    assert head(gathered(sample(0, 20, "ab")), "lda").route(sample(9, 20, "ab")[0]).unique().tolist() == [0]


def test_a_head_stores_no_tensors_of_its_own() -> None:
    assert head(gathered(sample(0, 20, "ab")), "lda").state_dict() == {}


def test_what_cannot_be_meant_is_refused() -> None:
    statistics = gathered(sample(0, 20, "ab"))
    with pytest.raises(SpecError, match=r"^no rule 'ldaa' over class statistics; did you mean 'lda'\?$"):
        statistics.spec("ldaa")
    for shrinkage in (-0.1, 1.1):
        with pytest.raises(SpecError, match=f"^shrinkage {shrinkage} is not between 0 and 1$"):
            statistics.spec("lda", shrinkage)
    with pytest.raises(SpecError, match=r"^class statistics need a label per feature, got 1 for 2$"):
        statistics.update(torch.ones(2, WIDTH), ["a"], 0)
    with pytest.raises(SpecError, match=r"^class statistics are of features of width 5, got 6$"):
        statistics.update(torch.ones(1, 6), ["a"], 0)
    few = gathered((torch.eye(WIDTH)[:2], ["a", "b"]))
    with pytest.raises(
        SpecError, match=r"^LDA cannot answer: the covariance of 2 features of width 5 is sing"
    ):
        head(few, "lda", 0.1)
    assert head(few, "class-means")(torch.eye(WIDTH)[:2]).argmax(1).tolist() == [0, 1]
