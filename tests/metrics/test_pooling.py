"""Weights of heads that answer together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contpeft.errors import SpecError
from contpeft.metrics.calibration import best_temperature, cross_entropy
from contpeft.metrics.pooling import Weights, pool_weights

SIGNAL = 1.5


def told(seed: int, n: int = 300, classes: int = 4, heads: int = 2) -> tuple[list[np.ndarray], list[int]]:
    """Returns scores of right answers by heads that err apart, normal noise around 0 and 1.5."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=n)
    signal = SIGNAL * np.eye(classes)[labels]
    return [rng.normal(size=(n, classes)) + signal for _ in range(heads)], labels.tolist()


def lost(scores: list[np.ndarray], labels: list[int], weights: np.ndarray) -> float:
    """Returns minus the log-likelihood, in nats."""
    pooled = sum(weight * each for weight, each in zip(weights, scores, strict=True))
    return len(labels) * cross_entropy(pooled, labels)


def test_of_one_head_and_many_rows_it_is_the_inverse_of_its_temperature() -> None:
    scores, labels = told(0, 4000, heads=1)
    found = pool_weights(scores, labels)
    assert found.values == pytest.approx([1 / best_temperature(scores[0], labels)], rel=1e-3)


def test_heads_that_err_apart_each_count_for_all_they_know() -> None:
    # The log-likelihood ratio of normal noise around 0 and 1.5 is 1.5 times the score.
    assert pool_weights(*told(1, 20_000)).values == pytest.approx([SIGNAL, SIGNAL], rel=0.05)


def test_heads_that_say_the_same_share_what_one_counts() -> None:
    (scores,), labels = told(2, heads=1)
    one, two = pool_weights([scores, scores], labels).values
    assert one == pytest.approx(two)
    assert one + two == pytest.approx(pool_weights([scores], labels).values[0], rel=0.01)


def test_a_head_that_says_nothing_counts_for_next_to_nothing() -> None:
    (good,), labels = told(3, 5000, heads=1)
    noise = np.random.default_rng(9).normal(size=good.shape)
    found = pool_weights([good, noise], labels).values
    assert found == pytest.approx([SIGNAL, 0], rel=0.1, abs=0.1)


@given(seed=st.integers(0, 10_000), kept=st.sampled_from([0.0, 0.5, 1.0]))
@settings(max_examples=15)
def test_no_weights_nearby_are_better(seed: int, kept: float) -> None:
    before = pool_weights(*told(seed + 1))
    scores, labels = told(seed)
    best = pool_weights(scores, labels, before=before, kept=kept).values

    def whole(weights: np.ndarray) -> float:
        away = weights - before.values
        return lost(scores, labels, weights) + 0.5 * kept * away @ before.precision @ away

    for one in (0.95, 1.0, 1.05):
        for two in (0.95, 1.0, 1.05):
            assert whole(best * [one, two]) >= whole(best) - 1e-6


@given(seed=st.integers(0, 10_000))
@settings(max_examples=15)
def test_the_precision_is_the_second_derivative(seed: int) -> None:
    scores, labels = told(seed, 60)
    before = Weights(np.ones(2), np.diag([3.0, 4.0]))
    found = pool_weights(scores, labels, before=before, kept=0.5)
    step = 1e-3 * np.eye(2)

    def second(i: int, j: int) -> float:
        signs = [(1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)]
        at = [(sign, found.values + a * step[i] + b * step[j]) for a, b, sign in signs]
        return sum(sign * lost(scores, labels, weights) for sign, weights in at) / 4e-6

    numeric = np.array([[second(i, j) for j in (0, 1)] for i in (0, 1)])
    np.testing.assert_allclose(found.precision, numeric + np.diag([1.5, 2.0]), rtol=1e-3, atol=1e-2)


def test_two_halves_one_after_the_other_tell_what_the_whole_tells() -> None:
    scores, labels = told(5, 4000)
    first, second = ([each[part] for each in scores] for part in (slice(2000), slice(2000, None)))
    before = pool_weights(first, labels[:2000])
    found = pool_weights(second, labels[2000:], before=before, kept=1.0)
    whole = pool_weights(scores, labels)
    assert found.values == pytest.approx(whole.values, rel=0.01)
    np.testing.assert_allclose(found.precision, whole.precision, rtol=0.05)


def test_rows_that_any_weights_tell_rightly_leave_them_as_they_were() -> None:
    before = pool_weights(*told(6))
    labels = [0, 1, 2, 3] * 50
    sure = [40.0 * np.eye(4)[labels], 60.0 * np.eye(4)[labels]]
    after = pool_weights(sure, labels, before=before, kept=1.0)
    assert after.values == pytest.approx(before.values, rel=1e-6)
    np.testing.assert_allclose(after.precision, before.precision, rtol=1e-6)


@given(seed=st.integers(0, 10_000), scale=st.sampled_from([1e-3, 10.0, 1e4]))
@settings(max_examples=10)
def test_scores_of_another_scale_have_weights_of_that_scale(seed: int, scale: float) -> None:
    scores, labels = told(seed)
    plain = pool_weights(scores, labels)
    found = pool_weights([scores[0], scale * scores[1]], labels)
    assert found.values * [1, scale] == pytest.approx(plain.values, rel=1e-4)
    np.testing.assert_allclose(found.precision, plain.precision * np.outer([1, scale], [1, scale]), rtol=1e-3)


def test_an_answer_of_two_columns_has_the_sum_of_both() -> None:
    scores, labels = told(7, 4000)
    halves = [np.concatenate([each, each[:, :1]], 1) - np.log([2, 1, 1, 1, 2]) for each in scores]
    found = pool_weights(halves, labels, [*"abcd", "a"])

    def split(weights: np.ndarray) -> float:
        pooled = []
        for weight, each in zip(weights, halves, strict=True):
            shares = np.exp(weight * each)
            shares[:, 0] += shares[:, 4]
            pooled.append(np.log(shares[:, :4] / shares[:, :4].sum(1, keepdims=True)))
        return len(labels) * cross_entropy(sum(pooled), labels)

    for one in (0.98, 1.02):
        for two in (0.98, 1.02):
            assert split(found.values * [one, two]) > split(found.values)


def test_the_order_of_columns_does_not_show() -> None:
    scores, labels = told(8)
    order = [2, 0, 3, 1]
    turned = [each[:, order] for each in scores]
    found = pool_weights(turned, [order.index(each) for each in labels], ["c", "a", "d", "b"])
    assert found.values == pytest.approx(pool_weights(scores, labels, "abcd").values, rel=1e-6)


@pytest.mark.parametrize("heads", [[], [np.zeros((2, 3)), np.zeros((2, 2))]])
def test_heads_of_different_shapes_are_refused(heads: list[np.ndarray]) -> None:
    with pytest.raises(SpecError, match=r"^heads that answer together need scores of one shape, got"):
        pool_weights(heads, [0, 1])
