"""Calibration against sums written out, and against models whose calibration is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from contpeft.errors import SpecError
from contpeft.metrics.calibration import best_temperature, calibration_error, cross_entropy


def drawn(seed: int, temperature: float, n: int = 20_000) -> tuple[NDArray[np.float64], list[int]]:
    """Returns logits that are calibrated when divided by ``temperature``, and labels drawn so."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(n, 4)) * 2
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (shares.cumsum(1) > generator.random((n, 1))).argmax(1)
    return logits * temperature, labels.tolist()


def by_hand(logits: NDArray[np.float64], labels: list[int], bins: int) -> float:
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    total = 0.0
    for b in range(bins):
        rows = [
            (max(row), float(row.argmax() == label))
            for row, label in zip(shares, labels, strict=True)
            if b / bins < max(row) <= (b + 1) / bins
        ]
        if rows:
            confidence, accuracy = np.mean(rows, axis=0)
            total += len(rows) / len(labels) * abs(accuracy - confidence)
    return total


@given(seed=st.integers(0, 10_000), bins=st.integers(1, 20))
def test_the_error_is_the_sum_over_bins(seed: int, bins: int) -> None:
    logits, labels = drawn(seed, 1.5, n=60)
    assert calibration_error(logits, labels, bins=bins) == pytest.approx(
        by_hand(logits, labels, bins), abs=1e-12
    )


def test_a_calibrated_model_has_none_and_a_sure_one_much() -> None:
    assert calibration_error(*drawn(0, 1.0)) < 0.02
    assert calibration_error(*drawn(0, 3.0)) > 0.1
    assert calibration_error([[0.0, 100.0]] * 4, [0, 0, 0, 0]) == pytest.approx(1.0)
    assert calibration_error([[0.0, 100.0]] * 4, [1, 1, 1, 1]) == pytest.approx(0.0)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_the_temperature_of_a_model_is_found_and_mends_it(temperature: float) -> None:
    logits, labels = drawn(1, temperature)
    found = best_temperature(logits, labels)
    assert found == pytest.approx(temperature, rel=0.05)
    assert calibration_error(logits / found, labels) < 0.02
    nearby = [cross_entropy(logits, labels, found * factor) for factor in (0.98, 1.0, 1.02)]
    assert nearby[1] == min(nearby)
    # No answer changes.
    assert ((logits / found).argmax(1) == logits.argmax(1)).all()


@given(seed=st.integers(0, 10_000), n=st.integers(1, 30), hotter=st.floats(0.2, 5.0))
def test_scaling_fits_at_least_as_well_as_not_scaling_and_changes_no_answer(
    seed: int, n: int, hotter: float
) -> None:
    logits, labels = drawn(seed, hotter, n)
    found = best_temperature(logits, labels)
    assert 0 < found < np.inf
    assert cross_entropy(logits, labels, found) <= cross_entropy(logits, labels) + 1e-6
    assert ((logits / found).argmax(1) == logits.argmax(1)).all()


def test_certainty_has_no_loss() -> None:
    assert str(cross_entropy([[1000.0, 0.0]], [0])) == "0.0"


def test_cross_entropy_is_the_mean_of_minus_the_logarithm() -> None:
    assert cross_entropy([[0.0, 0.0], [0.0, 0.0]], [0, 1]) == pytest.approx(np.log(2))
    assert cross_entropy([[np.log(3.0), 0.0]], [0]) == pytest.approx(-np.log(0.75))
    assert cross_entropy([[2 * np.log(3.0), 0.0]], [0], 2.0) == pytest.approx(-np.log(0.75))


@pytest.mark.parametrize(
    ("scores", "labels", "told"),
    [
        ([], [], "are no rows of answers"),
        ([[1.0, 2.0]], [0, 1], r"scores of shape \(1, 2\) and 2 labels"),
        ([[1.0, 2.0]], [2], "labels from 2 to 2 are not all among 2 columns"),
    ],
)
def test_what_is_no_answer_is_refused(scores: list[list[float]], labels: list[int], told: str) -> None:
    with pytest.raises(SpecError, match=told):
        calibration_error(scores, labels)


def test_senseless_settings_are_refused() -> None:
    with pytest.raises(SpecError, match="bins is 0"):
        calibration_error([[1.0]], [0], bins=0)
    with pytest.raises(SpecError, match="temperature 0 is not positive"):
        cross_entropy([[1.0]], [0], 0.0)


def test_columns_of_one_answer_are_right_together() -> None:
    logits = np.log([[1.0, 2.0, 3.0]])
    assert cross_entropy(logits, [0], answers=["a", "b", "a"]) == pytest.approx(-np.log(4 / 6))
    assert cross_entropy(logits, [1], answers=["a", "b", "a"]) == pytest.approx(-np.log(2 / 6))
    rows = np.random.default_rng(0).normal(size=(20, 3))
    assert best_temperature(rows, [0] * 20, ["a", "b", "c"]) == pytest.approx(
        best_temperature(rows, [0] * 20)
    )
