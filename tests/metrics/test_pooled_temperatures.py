"""Temperatures of heads that answer together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contpeft.errors import SpecError
from contpeft.metrics.calibration import best_temperature, best_temperatures, cross_entropy


def told(seed: int, n: int = 300, classes: int = 4, sharp: float = 1.0) -> tuple[np.ndarray, list[int]]:
    """Returns noisy scores of right answers."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=n)
    return sharp * (rng.normal(size=(n, classes)) + 1.5 * np.eye(classes)[labels]), labels.tolist()


@given(seed=st.integers(0, 10_000), sharp=st.sampled_from([0.1, 1.0, 10.0]))
@settings(max_examples=25)
def test_of_one_head_it_is_its_own(seed: int, sharp: float) -> None:
    scores, labels = told(seed, sharp=sharp)
    (found,) = best_temperatures([scores], labels)
    assert found == pytest.approx(best_temperature(scores, labels), rel=1e-3)


@given(seed=st.integers(0, 10_000), scale=st.sampled_from([1e-3, 10.0, 1e4]))
@settings(max_examples=10)
def test_scores_of_another_scale_have_temperatures_of_that_scale(seed: int, scale: float) -> None:
    (first, labels), (second, _) = told(seed), told(seed + 1)
    second = second + np.eye(4)[labels]
    plain = best_temperatures([first, second], labels)
    found = best_temperatures([first, scale * second], labels)
    assert found == pytest.approx((plain[0], scale * plain[1]), rel=1e-3)


def test_heads_that_say_the_same_share_what_one_would_count() -> None:
    scores, labels = told(0)
    one, two = best_temperatures([scores, scores], labels)
    assert 1 / (1 / one + 1 / two) == pytest.approx(best_temperature(scores, labels), rel=1e-3)


def test_heads_that_err_apart_each_count_for_all_they_know() -> None:
    (first, labels), (second, _) = told(1, 20_000), told(1, 20_000)
    rng = np.random.default_rng(9)
    second = rng.normal(size=second.shape) + 1.5 * np.eye(4)[labels]
    # Normal noise around 1.5: log-likelihoods are 1.5 times the scores.
    found = best_temperatures([first, second], labels)
    assert found == pytest.approx((1 / 1.5, 1 / 1.5), rel=0.05)


def test_a_head_that_says_nothing_hardly_counts() -> None:
    scores, labels = told(2, 4000)
    noise = np.random.default_rng(3).normal(size=scores.shape)
    good, idle = best_temperatures([scores, noise], labels)
    assert good == pytest.approx(best_temperature(scores, labels), rel=0.02)
    assert idle > 20 * good


@given(seed=st.integers(0, 10_000))
@settings(max_examples=10)
def test_no_others_nearby_are_better(seed: int) -> None:
    first, labels = told(seed)
    second = np.random.default_rng(seed + 1).normal(size=first.shape) + np.eye(4)[labels]
    best = best_temperatures([first, second], labels)
    lost = cross_entropy(first / best[0] + second / best[1], labels)
    for one in (0.9, 1.0, 1.1):
        for two in (0.9, 1.0, 1.1):
            nearby = first / (best[0] * one) + second / (best[1] * two)
            assert cross_entropy(nearby, labels) >= lost - 1e-6


def test_a_label_of_two_columns_has_the_sum_of_both() -> None:
    scores, labels = told(4)
    split = np.concatenate([scores, scores[:, :1]], axis=1) - [np.log(2), 0, 0, 0, np.log(2)]
    answers = [*"abcd", "a"]
    whole = best_temperatures([scores], labels, "abcd")
    # At temperature 1 two halves are the whole; the best one is near 1 / 1.5.
    assert best_temperatures([split], labels, answers) == pytest.approx(whole, rel=0.25)
    assert cross_entropy(split, labels, answers=answers) == pytest.approx(cross_entropy(scores, labels))


@pytest.mark.parametrize("heads", [[], [np.zeros((2, 3)), np.zeros((2, 2))]])
def test_heads_of_different_shapes_are_refused(heads: list[np.ndarray]) -> None:
    with pytest.raises(SpecError, match=r"^heads that answer together need scores of one shape, got"):
        best_temperatures(heads, [0, 1])
