"""Robust scores: right where much is known, careful where little is."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from contpeft.merging.outliers import robust_scores


def normal(seed: int, places: int, others: int) -> dict[str, list[float]]:
    values = np.random.default_rng(seed).normal(5, 2, (places, others))
    return {str(place): row.tolist() for place, row in enumerate(values)}


def test_with_many_others_they_are_standard_scores() -> None:
    others = normal(0, 10, 4001)
    own = {place: 5 + 2 * (int(place) - 5.0) for place in others}
    scores = robust_scores(own, others)
    for place, score in scores.items():
        assert score == pytest.approx(int(place) - 5, abs=0.15)


def test_a_score_is_the_normal_quantile_of_a_t_tail() -> None:
    others = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    t = 0.6745 * (14 - 4) / 2 / np.sqrt(1 + np.pi / 14)
    expected = -stats.norm.ppf(stats.t.sf(t, 6))
    assert robust_scores({"a": 14.0}, {"a": others})["a"] == pytest.approx(expected)
    assert robust_scores({"a": -6.0}, {"a": others})["a"] == pytest.approx(-expected)
    assert robust_scores({"a": 4.0}, {"a": others})["a"] == 0


def test_a_chance_agreement_at_one_place_makes_no_outlier() -> None:
    others = normal(1, 20, 15)
    others["0"] = [5 + 1e-6 * k for k in range(15)]
    assert abs(robust_scores({"0": 6.0, **{str(k): 5.0 for k in range(1, 20)}}, others)["0"]) < 1


@pytest.mark.parametrize("count", [6, 12, 30])
def test_few_normal_values_are_called_outliers_as_rarely_as_said(count: int) -> None:
    """Beyond 3.5 lie 0.047 % of normal scores: about 2 of 4,000. Plain modified scores: 282, 106, 25."""
    beyond = 0
    for seed in range(200):
        own = {place: values[0] for place, values in normal(10_000 + seed, 20, 1).items()}
        beyond += sum(abs(score) > 3.5 for score in robust_scores(own, normal(seed, 20, count)).values())
    assert beyond <= 4


def test_places_with_too_few_others_have_no_score() -> None:
    others = {"many": [1.0, 2.0, 3.0, 4.0, 5.0], "few": [1.0, 2.0, 3.0, 4.0]}
    assert robust_scores({"many": 3.0, "few": 3.0, "none": 3.0}, others).keys() == {"many"}
    assert robust_scores({"few": 3.0}, {"few": [1.0]}) == {}


def test_others_that_do_not_differ_leave_finite_scores() -> None:
    scores = robust_scores(
        {"same": 1.0, "above": 2.0, "below": 0.0}, dict.fromkeys(("same", "above", "below"), [1.0] * 9)
    )
    assert scores["same"] == 0
    assert 30 < scores["above"] == -scores["below"] < 40
