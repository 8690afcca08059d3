from __future__ import annotations

import copy
import math
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contpeft.errors import SpecError
from contpeft.metrics import DEFINITIONS, Matrix, Spread, Summary, spread, summarise

MATRIX = Matrix(("a", "b"), ((0.5, 0.25), (0.375, 0.75)))


def test_summarise_gathers_every_number() -> None:
    got = summarise(MATRIX, base={"b": 0.125})
    assert got == Summary(0.5625, -0.125, 0.125, 0.125, 0.625, 0.53125)
    assert got.to_json() == {
        "acc": 0.5625,
        "bwt": -0.125,
        "forgetting": 0.125,
        "fwt": 0.125,
        "learning_accuracy": 0.625,
        "average_incremental_accuracy": 0.53125,
    }


def test_without_a_base_score_forward_transfer_is_undefined() -> None:
    assert summarise(MATRIX).fwt is None


def test_start_scores_stand_in_for_a_missing_row() -> None:
    m = Matrix(("a", "b"), ((0.5, None), (0.375, 0.75)))
    assert summarise(m, base={"b": 0.125}, start={"b": 0.5}).fwt == 0.375


def test_lower_is_better_keeps_the_unit_of_means_and_the_meaning_of_differences() -> None:
    # A perplexity: task a gets worse (2 -> 5), task b was better before training than the base.
    m = Matrix(("a", "b", "c"), ((2.0, 9.0, None), (1.0, 3.0, None), (5.0, 2.0, 4.0)))
    got = summarise(m, base={"b": 10.0, "c": 8.0}, start={"c": 6.0}, lower_is_better=True)
    assert got.acc == pytest.approx(11 / 3)
    assert got.learning_accuracy == 3.0
    assert got.average_incremental_accuracy == pytest.approx((2 + 2 + 11 / 3) / 3)
    assert got.bwt == ((2 - 5) + (3 - 2)) / 2
    assert got.forgetting == ((5 - 1) + (2 - 3)) / 2
    assert got.fwt == ((10 - 9) + (8 - 6)) / 2


@given(st.lists(st.floats(-9, 9), min_size=4, max_size=4), st.floats(-9, 9))
def test_lower_is_better_is_the_summary_of_the_negated_scores(values: list[float], b: float) -> None:
    m = Matrix(("a", "b"), ((values[0], values[1]), (values[2], values[3])))
    low, high = summarise(m, base={"b": b}, lower_is_better=True), summarise(m.negated(), base={"b": -b})
    assert (low.bwt, low.forgetting, low.fwt) == (high.bwt, high.forgetting, high.fwt)
    means = (high.acc, high.learning_accuracy, high.average_incremental_accuracy)
    assert (low.acc, low.learning_accuracy, low.average_incremental_accuracy) == tuple(
        -value for value in means if value is not None
    )


def test_inputs_stay_as_they_were() -> None:
    base, start = {"b": 0.5}, {"b": 0.25}
    before = copy.deepcopy((MATRIX, base, start))
    summarise(MATRIX, base=base, start=start, lower_is_better=True)
    assert (MATRIX, base, start) == before


def test_spread_of_three_seeds() -> None:
    assert spread([0.5, 0.75, 1.0]) == Spread(0.75, 0.25, 3)


def test_spread_of_one_run_has_no_deviation() -> None:
    assert spread([0.5]) == (0.5, None, 1)


def test_spread_of_nothing_is_refused() -> None:
    with pytest.raises(SpecError, match="the spread of no values is undefined"):
        spread([])


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=8))
def test_spread_equals_an_independent_oracle(values: list[float]) -> None:
    got = spread(values)
    assert got.mean == pytest.approx(np.mean(values), abs=1e-9)
    assert got.std == pytest.approx(np.std(values, ddof=1), abs=1e-7)
    assert got.n == len(values)


def test_every_number_is_defined_once_and_in_the_order_of_the_summary() -> None:
    assert [d.field for d in DEFINITIONS] == [f.name for f in fields(Summary)]
    assert len({d.symbol for d in DEFINITIONS}) == len(DEFINITIONS)


def test_definitions_say_which_numbers_are_differences() -> None:
    # Differences do not move when a constant is added to every score; means move with it.
    moved = Matrix(MATRIX.tasks, tuple(tuple(v + 1.0 for v in row if v is not None) for row in MATRIX.rows))
    first, second = (
        summarise(MATRIX, base={"b": 0.125}).to_json(),
        summarise(moved, base={"b": 1.125}).to_json(),
    )
    for d in DEFINITIONS:
        change = (second[d.field] or math.nan) - (first[d.field] or math.nan)
        assert change == pytest.approx(0.0 if d.signed else 1.0), d.symbol
