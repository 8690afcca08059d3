"""Shared bases: exact where there is room, near the best where there is not, and within the budget."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from merging_oracle import dense, factors

from contpeft.merging import Update, canonical
from contpeft.merging.sharing import Cost, SharedBasis, coordinates, fill, mode_spectra, shared_basis

SEEDS = st.integers(0, 2**31)


def updates(seed: int, count: int = 3, rank: int = 2) -> list[Update]:
    return [canonical(*factors(seed + place, rank)) for place in range(count)]


def told(update: Update, basis: SharedBasis) -> np.ndarray:
    left, right = coordinates(update, basis)
    return np.asarray(basis.u @ left @ right @ basis.v.T)


def lost(given: list[Update], basis: SharedBasis) -> float:
    return float(sum(np.linalg.norm(dense(each) - told(each, basis)) ** 2 for each in given))


@given(seed=SEEDS)
def test_spectra_are_those_of_the_stacked_dense_updates(seed: int) -> None:
    found = mode_spectra(updates(seed))
    stacked = [np.concatenate([dense(each) for each in updates(seed)], axis=axis) for axis in (1, 0)]
    for s, matrix in zip(found, stacked, strict=True):
        expected = np.linalg.svd(matrix, compute_uv=False)[: len(s)]
        np.testing.assert_allclose(s, expected, rtol=1e-9)


@given(seed=SEEDS)
def test_with_room_for_all_directions_nothing_is_lost(seed: int) -> None:
    given_updates = updates(seed)
    basis = shared_basis(given_updates, 6, 6)
    np.testing.assert_allclose(basis.u.T @ basis.u, np.eye(6), atol=1e-12)
    np.testing.assert_allclose(basis.v.T @ basis.v, np.eye(6), atol=1e-12)
    for update in given_updates:
        np.testing.assert_allclose(told(update, basis), dense(update), atol=1e-10)
        assert coordinates(update, basis)[0].shape == (6, 2)


@given(seed=SEEDS, p=st.integers(1, 6), q=st.integers(1, 6))
def test_what_is_lost_is_within_the_bound_and_no_less_than_one_side_loses(seed: int, p: int, q: int) -> None:
    given_updates = updates(seed)
    output, input_ = mode_spectra(given_updates)
    cut = [float(output[p:].square().sum()), float(input_[q:].square().sum())]
    found = lost(given_updates, shared_basis(given_updates, p, q))
    scale = float(output.square().sum())
    assert max(cut) - 1e-9 * scale <= found <= sum(cut) + 1e-9 * scale


@given(seed=SEEDS)
def test_one_update_alone_is_truncated_as_well_as_can_be(seed: int) -> None:
    update = canonical(*factors(seed, 5))
    found = lost([update], shared_basis([update], 2, 2))
    assert found == pytest.approx(float(update.s[2:].square().sum()), rel=1e-6)


def test_rounded_bases_are_told_in_by_least_squares() -> None:
    given_updates = updates(3)
    exact = shared_basis(given_updates, 4, 4)
    rounded = SharedBasis(exact.u.bfloat16().double(), exact.v.bfloat16().double())
    left, right = (np.linalg.pinv(np.asarray(each)) for each in (rounded.u, rounded.v))
    for update in given_updates:
        best = np.asarray(rounded.u) @ left @ dense(update) @ right.T @ np.asarray(rounded.v).T
        np.testing.assert_allclose(told(update, rounded), best, atol=1e-9)


def test_a_zero_update_has_no_coordinates() -> None:
    zero = canonical(torch.zeros(12, 2), torch.zeros(2, 9))
    basis = shared_basis([zero, *updates(1)], 3, 3)
    assert [factor.shape for factor in coordinates(zero, basis)] == [(3, 0), (0, 3)]


@given(seed=SEEDS, budget=st.integers(0, 700))
def test_no_more_than_the_budget_is_taken_and_no_side_stays_alone(seed: int, budget: int) -> None:
    spectra = {"a": mode_spectra(updates(seed)), "b": mode_spectra(updates(seed + 50, rank=1))}
    costs = {"a": Cost(30, 20), "b": Cost(11, 50)}
    sizes = fill(spectra, costs, budget)
    assert sum(p * costs[name].output + q * costs[name].input for name, (p, q) in sizes.items()) <= budget
    assert all(p > 0 and q > 0 for p, q in sizes.values())
    if budget >= 6 * 50 + 3 * 61:
        assert sizes == {"a": (6, 6), "b": (3, 3)}


def test_weights_that_count_more_get_more() -> None:
    loud, quiet = updates(1), updates(2)
    spectra = {
        "loud": mode_spectra(loud),
        "quiet": mode_spectra([Update(each.u, each.s / 100, each.v) for each in quiet]),
    }
    sizes = fill(spectra, {"loud": Cost(10, 10), "quiet": Cost(10, 10)}, 80)
    assert sum(sizes["loud"]) >= 7
    assert fill(spectra, {"loud": Cost(10, 10), "quiet": Cost(10, 10)}, 5) == {}
