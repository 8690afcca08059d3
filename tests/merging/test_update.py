"""Canonical forms, sums and truncation against dense float64."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from merging_oracle import dense, factors, product, regauged

from contpeft.errors import SpecError
from contpeft.merging import balanced_factors, canonical, combine, truncated

RANKS = st.integers(1, 5)
SEEDS = st.integers(0, 2**31)


@given(seed=SEEDS, rank=RANKS, scale=st.sampled_from([0.5, -2.0, 1e-6, 1e6]))
def test_a_canonical_form_is_the_update(seed: int, rank: int, scale: float) -> None:
    b, a = factors(seed, rank)
    update = canonical(b, a, scale)
    expected = scale * product(b, a)
    assert np.linalg.norm(dense(update) - expected) <= 1e-13 * np.linalg.norm(expected)
    singular = np.linalg.svd(expected, compute_uv=False)[:rank]
    assert update.rank == rank
    np.testing.assert_allclose(update.s, singular, rtol=1e-10)
    np.testing.assert_allclose(update.u.T @ update.u, np.eye(rank), atol=1e-13)
    np.testing.assert_allclose(update.v.T @ update.v, np.eye(rank), atol=1e-13)
    largest = update.u.abs().argmax(0)
    assert bool((update.u[largest, range(rank)] > 0).all())
    np.testing.assert_allclose(update.norm, np.linalg.norm(expected), rtol=1e-13)


@given(seed=SEEDS, rank=RANKS)
def test_equal_updates_have_equal_forms(seed: int, rank: int) -> None:
    b, a = factors(seed, rank)
    one, other = canonical(b, a), canonical(*regauged(b, a, seed + 1))
    gaps = np.diff(-np.asarray(one.s)) / np.asarray(one.s[0])
    np.testing.assert_allclose(other.s, one.s, rtol=1e-9)
    if (gaps > 1e-3).all():
        np.testing.assert_allclose(other.u, one.u, atol=1e-8)
        np.testing.assert_allclose(other.v, one.v, atol=1e-8)


@given(
    seed=SEEDS,
    terms=st.lists(st.tuples(RANKS, st.sampled_from([0.5, -1.0, 2.0, 0.0])), min_size=1, max_size=4),
)
def test_sums_are_exact(seed: int, terms: Sequence[tuple[int, float]]) -> None:
    parts = [(*factors(seed + place, rank), weight) for place, (rank, weight) in enumerate(terms)]
    expected = sum(weight * product(b, a) for b, a, weight in parts)
    scale = sum(abs(weight) * np.linalg.norm(product(b, a)) for b, a, weight in parts)
    update = combine(parts)
    assert np.linalg.norm(dense(update) - expected) <= 1e-13 * scale
    assert update.rank <= min(12, 9, sum(rank for rank, _ in terms))


def test_an_adapter_in_two_halves_is_itself() -> None:
    b, a = factors(1, 4)
    halves = combine([(b[:, :2], a[:2], 0.5), (b[:, 2:], a[2:], 0.5)])
    np.testing.assert_allclose(dense(halves), dense(canonical(b, a, 0.5)), atol=1e-14)


def test_what_cancels_has_no_rank() -> None:
    b, a = factors(1, 4)
    assert combine([(b, a, 1.0), (b, a, 1.0)]).rank == 4
    zero = combine([(b, a, 1.0), (torch.zeros_like(b), a, 1.0)])
    assert zero.rank == 4
    nothing = canonical(torch.zeros(12, 4), torch.ones(4, 9))
    assert (nothing.rank, nothing.shape, float(nothing.norm)) == (0, (12, 9), 0.0)


def test_a_small_adapter_beside_a_large_one_is_kept() -> None:
    large, small = factors(1, 3), factors(2, 3)
    both = combine([(*large, 1.0), (*small, 1e-8)])
    assert both.rank == 6
    rest = dense(both) - product(*large)
    np.testing.assert_allclose(rest, 1e-8 * product(*small), atol=1e-13)


@given(seed=SEEDS, rank=st.integers(0, 7))
def test_truncation_is_the_best_there_is(seed: int, rank: int) -> None:
    update = combine([(*factors(seed, 3), 1.0), (*factors(seed + 1, 3), 1.0)])
    best, lost = truncated(update, rank)
    u, s, vh = np.linalg.svd(dense(update))
    floor = np.linalg.norm(s[rank:])
    assert best.rank == min(rank, 6)
    np.testing.assert_allclose(np.linalg.norm(dense(update) - dense(best)), floor, atol=1e-12)
    np.testing.assert_allclose(lost, floor**2 / np.sum(s**2), atol=1e-13)
    assert u.shape == (12, 12)
    assert vh.shape == (9, 9)


def test_factors_are_balanced() -> None:
    update = canonical(*factors(3, 4), 1e-4)
    b, a = balanced_factors(update)
    np.testing.assert_allclose(b @ a, dense(update), atol=1e-16)
    np.testing.assert_allclose(b.norm(dim=0), a.norm(dim=1), rtol=1e-12)


def test_single_precision_is_near() -> None:
    b, a = factors(4, 4)
    near = canonical(b.float(), a.float(), dtype=torch.float32)
    assert near.s.dtype == torch.float32
    error = np.linalg.norm(dense(near) - product(b, a)) / np.linalg.norm(product(b, a))
    assert 1e-9 < error < 1e-6


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ([], "there is no update to combine"),
        ([(torch.ones(3, 2), torch.ones(3, 4), 1.0)], r"shapes \(3, 2\) and \(3, 4\) have no product"),
        (
            [(torch.ones(3, 2), torch.ones(2, 4), 1.0), (torch.ones(3, 2), torch.ones(2, 5), 1.0)],
            r"updates of shapes \(3, 4\) and \(3, 5\) cannot be added",
        ),
        ([(torch.ones(3), torch.ones(3, 4), 1.0)], "have no product"),
        ([(torch.full((3, 2), torch.nan), torch.ones(2, 4), 1.0)], "NaN or infinite"),
        ([(torch.ones(3, 2), torch.ones(2, 4), float("inf"))], "NaN or infinite"),
    ],
)
def test_what_cannot_be_added(terms: list[tuple[torch.Tensor, torch.Tensor, float]], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        combine(terms)


def test_half_precision_and_negative_ranks_are_refused() -> None:
    with pytest.raises(SpecError, match=r"cannot compute updates in torch.float16; use torch.float64 or"):
        canonical(*factors(0, 1), dtype=torch.float16)
    with pytest.raises(SpecError, match="rank -1 is negative"):
        truncated(canonical(*factors(0, 1)), -1)
