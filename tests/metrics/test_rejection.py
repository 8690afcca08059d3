"""Rejection against scikit-learn and against sums written out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from contpeft.errors import SpecError
from contpeft.metrics.rejection import auroc, false_acceptance, false_rejection

SCORES = st.lists(st.integers(-5, 5).map(float) | st.floats(-9, 9), min_size=1, max_size=30)


@given(SCORES, SCORES)
def test_the_area_is_that_of_scikit_learn(known: list[float], unknown: list[float]) -> None:
    expected = roc_auc_score([1] * len(known) + [0] * len(unknown), [*known, *unknown])
    assert auroc(known, unknown) == pytest.approx(expected)
    assert auroc(unknown, known) == pytest.approx(1 - expected)


@given(SCORES, SCORES, st.integers(-5, 5))
def test_the_rates_are_a_point_of_the_curve(known: list[float], unknown: list[float], at: int) -> None:
    labels = [1] * len(known) + [0] * len(unknown)
    accepted, right, cuts = roc_curve(labels, [*known, *unknown], drop_intermediate=False)
    place = int(np.sum(cuts >= at)) - 1
    assert false_rejection(known, at) == pytest.approx(1 - right[place])
    assert false_acceptance(unknown, at) == pytest.approx(accepted[place])


def test_every_row_may_have_its_own_threshold() -> None:
    assert false_rejection([0.5, 0.5, 0.9], [0.4, 0.6, 0.9]) == pytest.approx(1 / 3)
    assert false_acceptance([0.5, 0.5, 0.9], [0.4, 0.6, 0.9]) == pytest.approx(2 / 3)
    assert auroc([2.0, 3.0], [1.0, 0.0]) == 1.0
    assert auroc([1.0], [1.0]) == 0.5


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(SpecError, match=r"^rejection is measured on scores, one a row; the known"):
        auroc([], [1.0])
    with pytest.raises(SpecError, match=r"the unknown ones are \(1, 2\)$"):
        false_acceptance([[1.0, 2.0]], 0.0)
    with pytest.raises(SpecError, match=r"^a score of the known inputs is not a number$"):
        false_rejection([float("nan")], 0.0)
