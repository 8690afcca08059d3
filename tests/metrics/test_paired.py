"""Paired comparisons: exact tests and intervals beside brute force, published values and coverage."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from contpeft.errors import SpecError
from contpeft.metrics.paired import Paired, compare, holm, loss_p_value, mean_of, score_interval

COUNTS = st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(0, 60)).filter(lambda c: sum(c) > 0)


def paired(lost: int, gained: int, n: int, both: int = 0) -> Paired:
    """Compares two models by how many rows were lost, gained, and right for both."""
    before = [True] * lost + [False] * gained + [k < both for k in range(n - lost - gained)]
    after = [False] * lost + [True] * gained + [k < both for k in range(n - lost - gained)]
    return compare(before, after)


def statistic(lost: int, gained: int, n: int, difference: float) -> float:
    """Tango's statistic with the share of lost rows found by a search for the largest likelihood."""
    low, high = max(0.0, -difference), (1 - difference) / 2
    share = np.linspace(low, high, 200_001)[1:-1]
    likelihood = (
        lost * np.log(share)
        + gained * np.log(share + difference)
        + (n - lost - gained) * np.log1p(-2 * share - difference)
    )
    q = float(share[likelihood.argmax()])
    return (gained - lost - n * difference) / math.sqrt(n * (2 * q + difference - difference**2))


def test_counts_and_accuracies() -> None:
    change = compare([1, 1, 1, 0, 0], [1, 0, 0, 1, 0])
    assert (change.n, change.lost, change.gained) == (5, 2, 1)
    assert (change.before, change.after) == (0.6, 0.4)
    assert change.difference == pytest.approx(-0.2)
    assert change.loss == pytest.approx(0.2)
    assert change.low < change.difference < change.high


@given(st.integers(0, 200), st.integers(0, 200))
def test_the_test_is_the_exact_binomial(lost: int, gained: int) -> None:
    expected = binomtest(lost, lost + gained, 0.5, alternative="greater").pvalue if lost + gained else 1.0
    assert loss_p_value(lost, gained) == pytest.approx(expected, rel=1e-10, abs=1e-300)


def test_the_test_is_a_count_of_coins() -> None:
    coins = list(itertools.product((0, 1), repeat=9))
    assert loss_p_value(7, 2) == pytest.approx(sum(sum(each) >= 7 for each in coins) / len(coins))


def test_published_interval() -> None:
    """Fagerland, Lydersen and Laake (2014), airway hyper-responsiveness: 1 and 7 of 21 pairs differ."""
    assert score_interval(7, 1, 21) == (pytest.approx(-0.517, abs=5e-4), pytest.approx(-0.026, abs=5e-4))


@pytest.mark.parametrize("counts", [(7, 1, 21), (3, 9, 40), (1, 0, 12), (12, 11, 25), (0, 4, 30)])
def test_both_ends_are_where_the_score_test_stops_rejecting(counts: tuple[int, int, int]) -> None:
    low, high = score_interval(*counts)
    assert statistic(*counts, low) == pytest.approx(1.959964, abs=1e-3)
    assert statistic(*counts, high) == pytest.approx(-1.959964, abs=1e-3)


@pytest.mark.parametrize("n", [1, 7, 50, 1000])
def test_without_a_difference_it_is_as_wide_as_the_score_interval_of_no_success(n: int) -> None:
    z = 1.959963984540054
    assert score_interval(0, 0, n) == pytest.approx((-(z**2) / (n + z**2), z**2 / (n + z**2)), abs=1e-9)


@given(COUNTS, st.sampled_from([0.01, 0.05, 0.3]))
def test_swapping_the_models_mirrors_the_interval(counts: tuple[int, int, int], alpha: float) -> None:
    lost, gained, rest = counts
    n = sum(counts)
    low, high = score_interval(lost, gained, n, alpha)
    assert score_interval(gained, lost, n, alpha) == (-high, -low)
    assert -1 <= low <= (gained - lost) / n <= high <= 1
    wider = score_interval(lost, gained, n, alpha / 2)
    assert wider[0] <= low
    assert wider[1] >= high
    assert rest >= 0


def test_the_ends_of_what_can_be() -> None:
    low, high = score_interval(20, 0, 20)
    assert low == -1.0
    assert high < -0.6
    assert score_interval(0, 20, 20) == (-high, 1.0)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    draws = rng.multinomial(60, [0.15, 0.05, 0.8], size=2000)
    bounds = {tuple(each): score_interval(each[0], each[1], 60) for each in np.unique(draws, axis=0)}
    covered = np.mean([low <= -0.1 <= high for low, high in (bounds[tuple(each)] for each in draws)])
    assert 0.94 <= covered <= 0.965


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: compare([], []), r"one at least; there are \(0,\) and \(0,\)"),
        (lambda: compare([True], [True, False]), r"there are \(1,\) and \(2,\)"),
        (lambda: score_interval(3, 2, 4), "3 rows lost and 2 gained of 4 cannot be"),
        (lambda: score_interval(-1, 2, 4), "cannot be"),
        (lambda: compare([True], [True], 1.0), "alpha is 1.0; it must lie between 0 and 1"),
        (lambda: mean_of([]), "nothing to take the mean of"),
    ],
)
def test_what_cannot_be_compared(call: object, said: str) -> None:
    assert callable(call)
    with pytest.raises(SpecError, match=said):
        call()


class TestMeans:
    def test_the_mean_of_one_is_itself(self) -> None:
        one = paired(5, 2, 40, both=20)
        mean = mean_of([one])
        assert (mean.before, mean.after, mean.p, mean.n) == (one.before, one.after, one.p, one.n)
        assert (mean.low, mean.high) == (pytest.approx(one.low), pytest.approx(one.high))

    def test_tasks_weigh_the_same_whatever_their_size(self) -> None:
        small, large = paired(2, 0, 10, both=8), paired(0, 0, 1000, both=1000)
        mean = mean_of([small, large])
        assert (mean.before, mean.after) == (pytest.approx(1.0), pytest.approx(0.9))
        assert mean.n == 1010
        assert mean.p == 0.25
        below = math.hypot(small.difference - small.low, large.difference - large.low) / 2
        assert mean.low == pytest.approx(-0.1 - below)

    def test_equal_parts_shrink_the_interval_by_the_root_of_their_number(self) -> None:
        part = paired(5, 2, 40, both=20)
        mean = mean_of([part] * 9)
        assert mean.high - mean.difference == pytest.approx((part.high - part.difference) / 3)


class TestHolm:
    def test_worked_example(self) -> None:
        assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))

    @given(st.lists(st.floats(0, 1), max_size=8))
    def test_it_rejects_what_the_stepwise_procedure_rejects(self, p_values: list[float]) -> None:
        corrected = holm(p_values)
        assert all(a <= b <= 1 for a, b in zip(p_values, corrected, strict=True))
        for alpha in (0.01, 0.05, 0.5):
            rejected = set()
            for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
                if p_values[place] * (len(p_values) - rank) > alpha:
                    break
                rejected.add(place)
            assert {place for place, p in enumerate(corrected) if p <= alpha} == rejected
