"""Golden matrices worked out by hand, and an oracle in numpy that knows nothing of the package."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contpeft.errors import SpecError
from contpeft.metrics import (
    Matrix,
    average_accuracy,
    average_incremental_accuracy,
    backward_transfer,
    forgetting,
    forward_transfer,
    learning_accuracy,
    task_forgetting,
)


def matrix(*rows: tuple[float | None, ...]) -> Matrix:
    return Matrix(tuple(f"t{j}" for j in range(len(rows))), rows)


# Each matrix separates the standard definitions from common variants: a peak after learning (first
# minus last is wrong), a gain (clamping at 0 is wrong), a peak before learning (rows from 0 on are
# wrong), differing neighbours (triangular means are wrong).
GOLDEN = {
    "two_tasks_gain": (
        matrix((0.6, 0.1), (0.7, 0.8)),
        {"t1": 0.05},
        {"acc": 0.75, "la": 0.7, "aia": 0.675, "bwt": 0.1, "f": (-0.1,), "mean_f": -0.1, "fwt": 0.05},
    ),
    "three_tasks_late_peak": (
        matrix((0.8, 0.2, 0.4), (0.85, 0.7, 0.3), (0.5, 0.6, 0.9)),
        {"t1": 0.1, "t2": 0.1},
        {
            "acc": 2.0 / 3,
            "la": 0.8,
            "aia": (0.8 + 0.775 + 2.0 / 3) / 3,
            "bwt": -0.2,
            "f": (0.35, 0.1),
            "mean_f": 0.225,
            "fwt": 0.15,
        },
    ),
    "four_tasks_zero_shot_peak": (
        matrix(
            (0.80, 0.20, 0.75, 0.30),
            (0.85, 0.70, 0.50, 0.30),
            (0.75, 0.60, 0.60, 0.35),
            (0.65, 0.65, 0.65, 0.90),
        ),
        {"t1": 0.20, "t2": 0.25, "t3": 0.30},
        {
            "acc": 2.85 / 4,
            "la": 0.75,
            "aia": (0.8 + 0.775 + 0.65 + 0.7125) / 4,
            "bwt": -0.05,
            "f": (0.20, 0.05, -0.05),
            "mean_f": 0.2 / 3,
            "fwt": 0.1,
        },
    ),
    "negative_scores": (
        matrix((-0.2, -0.5), (-0.6, -0.1)),
        {"t1": -0.4},
        {"acc": -0.35, "la": -0.15, "aia": -0.275, "bwt": -0.4, "f": (0.4,), "mean_f": 0.4, "fwt": -0.1},
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_matrices(name: str) -> None:
    m, base, want = GOLDEN[name]
    assert average_accuracy(m) == pytest.approx(want["acc"], abs=1e-12)
    assert learning_accuracy(m) == pytest.approx(want["la"], abs=1e-12)
    assert average_incremental_accuracy(m) == pytest.approx(want["aia"], abs=1e-12)
    assert backward_transfer(m) == pytest.approx(want["bwt"], abs=1e-12)
    assert task_forgetting(m)[:-1] == pytest.approx(want["f"], abs=1e-12)
    assert forgetting(m) == pytest.approx(want["mean_f"], abs=1e-12)
    assert forward_transfer(m, base) == pytest.approx(want["fwt"], abs=1e-12)


def test_one_task_has_means_and_no_differences() -> None:
    m = matrix((0.5,))
    assert (average_accuracy(m), learning_accuracy(m), average_incremental_accuracy(m)) == (0.5, 0.5, 0.5)
    assert (backward_transfer(m), forgetting(m), forward_transfer(m, {"t0": 0.1})) == (None, None, None)
    assert task_forgetting(m) == (None,)


def test_joint_training_has_only_a_final_average() -> None:
    m = matrix((None, None), (0.5, 0.75))
    assert average_accuracy(m) == 0.625
    assert learning_accuracy(m) is None
    assert average_incremental_accuracy(m) is None
    assert backward_transfer(m) is None
    assert task_forgetting(m) == (None, None)
    assert forgetting(m) is None
    assert forward_transfer(m, {"t1": 0.1}) is None


def test_a_hole_in_the_last_row_leaves_what_does_not_need_it() -> None:
    m = matrix((0.5, None), (None, 0.75))
    assert average_accuracy(m) is None
    assert learning_accuracy(m) == 0.625
    assert backward_transfer(m) is None
    assert task_forgetting(m) == (None, None)


def test_forgetting_passes_over_rows_that_were_not_measured() -> None:
    m = matrix((0.5, None, None), (None, 0.25, None), (0.25, 0.5, 1.0))
    assert task_forgetting(m) == (0.25, -0.25, None)
    assert forgetting(m) == 0.0
    assert average_incremental_accuracy(m) is None


def test_one_task_without_forgetting_leaves_the_mean_undefined() -> None:
    m = matrix((0.5, None, None), (None, None, None), (0.25, 0.5, 1.0))
    assert task_forgetting(m) == (0.25, None, None)
    assert forgetting(m) is None


def test_forward_transfer_takes_the_start_score_only_where_the_row_before_is_missing() -> None:
    m = matrix((0.5, None, None), (0.5, 0.5, 0.375), (0.5, 0.5, 0.5))
    base = {"t1": 0.125, "t2": 0.25}
    assert forward_transfer(m, base) is None
    assert forward_transfer(m, base, {"t1": 0.25, "t2": 0.999}) == 0.125
    assert forward_transfer(m, {"t1": 0.125}, {"t1": 0.25}) is None


@pytest.mark.parametrize(
    ("base", "start", "message"),
    [
        ({"t1": math.nan}, {}, "base score on task 't1' is nan; leave the cell out if it was not measured"),
        ({"t1": 0.1}, {"t1": math.inf}, "start score on task 't1' is inf; leave the cell out"),
    ],
)
def test_forward_transfer_refuses_scores_that_are_no_numbers(
    base: dict[str, float], start: dict[str, float], message: str
) -> None:
    with pytest.raises(SpecError) as caught:
        forward_transfer(matrix((0.5, 0.5), (0.5, 0.5)), base, start)
    assert str(caught.value).startswith(message)


scores = st.floats(-4, 4, allow_nan=False)
cells = st.one_of(st.none(), scores)


@st.composite
def grids(draw: st.DrawFn, cell: st.SearchStrategy[float | None] = cells) -> Matrix:
    size = draw(st.integers(1, 5))
    row = st.tuples(*[cell] * size)
    return matrix(*draw(st.tuples(*[row] * size)))


def oracle(m: Matrix) -> dict[str, float]:
    """The same numbers from a float64 array, NaN for what is missing or undefined."""
    r = np.array(m.rows, dtype=np.float64)
    size = len(r)
    ends = [r[j : size - 1, j] for j in range(size - 1)]
    peaks = np.array([end[~np.isnan(end)].max() if (~np.isnan(end)).any() else np.nan for end in ends])
    means = np.array([r[k, : k + 1].mean() for k in range(size)])
    nan = float("nan")
    return {
        "acc": r[-1].mean(),
        "la": np.diag(r).mean(),
        "aia": means.mean(),
        "bwt": (r[-1] - np.diag(r))[:-1].mean() if size > 1 else nan,
        "f": (peaks - r[-1, :-1]).mean() if size > 1 else nan,
    }


def as_nan(value: float | None) -> float:
    return float("nan") if value is None else value


@given(grids())
def test_numbers_equal_an_independent_oracle(m: Matrix) -> None:
    got = {
        "acc": average_accuracy(m),
        "la": learning_accuracy(m),
        "aia": average_incremental_accuracy(m),
        "bwt": backward_transfer(m),
        "f": forgetting(m),
    }
    want = oracle(m)
    for key, value in got.items():
        assert as_nan(value) == pytest.approx(want[key], abs=1e-9, nan_ok=True), key


@given(grids(), st.lists(cells, min_size=5, max_size=5), st.lists(cells, min_size=5, max_size=5))
def test_forward_transfer_equals_an_independent_oracle(
    m: Matrix, base: list[float | None], start: list[float | None]
) -> None:
    r = np.array(m.rows, dtype=np.float64)
    size = len(r)
    b, s = (np.array(values[:size], dtype=np.float64) for values in (base, start))
    before = np.array([r[j - 1, j] if not np.isnan(r[j - 1, j]) else s[j] for j in range(1, size)])
    want = (before - b[1:]).mean() if size > 1 else float("nan")
    known = [{f"t{j}": v for j, v in enumerate(values) if v is not None} for values in (base, start)]
    assert as_nan(forward_transfer(m, *known)) == pytest.approx(want, abs=1e-9, nan_ok=True)


@given(grids(scores))
def test_forgetting_is_never_below_the_loss_since_learning(m: Matrix) -> None:
    bwt, loss = backward_transfer(m), forgetting(m)
    if bwt is not None and loss is not None:
        assert loss >= -bwt - 1e-9


@given(grids(scores), st.floats(-2, 2))
def test_a_constant_added_to_every_score_moves_means_and_no_difference(m: Matrix, shift: float) -> None:
    moved = Matrix(m.tasks, tuple(tuple((v or 0.0) + shift for v in row) for row in m.rows))
    assert average_accuracy(moved) == pytest.approx(as_nan(average_accuracy(m)) + shift, abs=1e-9)
    for number in (backward_transfer, forgetting):
        assert as_nan(number(moved)) == pytest.approx(as_nan(number(m)), abs=1e-9, nan_ok=True)


@given(grids())
def test_inputs_stay_as_they_were(m: Matrix) -> None:
    base, start = {"t1": 0.5}, {"t2": 0.25}
    before = copy.deepcopy((m, base, start))
    forward_transfer(m, base, start)
    task_forgetting(m)
    average_incremental_accuracy(m)
    assert (m, base, start) == before
