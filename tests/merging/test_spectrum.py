"""Spectra from factors against dense float64, and the ranks read off them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from merging_oracle import factors, product, regauged

from contpeft.merging import canonical
from contpeft.merging.spectrum import effective_rank, singular_values, spectrum

SEEDS = st.integers(0, 2**31)


@given(seed=SEEDS, rank=st.integers(1, 5))
def test_singular_values_are_those_of_the_dense_update_whatever_its_factors(seed: int, rank: int) -> None:
    b, a = factors(seed, rank)
    expected = np.linalg.svd(-0.5 * product(b, a), compute_uv=False)[:rank]
    np.testing.assert_allclose(singular_values(b, a, -0.5), expected, rtol=1e-9)
    np.testing.assert_allclose(singular_values(*regauged(b, a, seed), 0.5), expected, rtol=1e-9)
    np.testing.assert_allclose(canonical(b, a, -0.5).s, expected, rtol=1e-9)


@given(seed=SEEDS, rank=st.integers(1, 5))
def test_numbers_are_those_of_the_dense_update(seed: int, rank: int) -> None:
    b, a = factors(seed, rank)
    dense = product(b, a)
    s = np.linalg.svd(dense, compute_uv=False)
    found = spectrum(singular_values(b, a), dense.shape)
    assert found.rank == rank
    assert found.shape == (12, 9)
    assert found.frobenius == pytest.approx(np.linalg.norm(dense))
    assert found.spectral == pytest.approx(np.linalg.norm(dense, 2))
    assert found.stable_rank == pytest.approx(np.sum(s**2) / s[0] ** 2)
    assert found.top_share == pytest.approx(s[0] ** 2 / np.sum(s**2))
    p = s[:rank] / s[:rank].sum()
    assert found.effective_rank == pytest.approx(np.exp(-np.sum(p * np.log(p))))
    assert 1 <= found.stable_rank <= found.effective_rank + 1e-9 <= rank + 2e-9


def test_effective_rank_of_known_spectra() -> None:
    assert effective_rank(torch.tensor([2.0, 2.0, 2.0])) == pytest.approx(3)
    assert effective_rank(torch.tensor([5.0])) == 1
    assert effective_rank(torch.tensor([3.0, 1.0, 0.0])) == pytest.approx(4 / 3**0.75)
    assert effective_rank(torch.zeros(2)) == effective_rank(torch.zeros(0)) == 0


def test_ranks_that_hold_energy() -> None:
    s = torch.tensor([10.0, 3.0, 1.0, 0.5], dtype=torch.float64)
    assert spectrum(s, (5, 6)).energy_ranks == (1, 2, 3)


def test_rank_that_the_factors_only_seem_to_have_is_not_counted() -> None:
    b, a = factors(1, 2)
    assert singular_values(torch.cat([b, b], 1), torch.cat([a, a])).numel() == 2


def test_a_zero_update_has_no_rank() -> None:
    found = spectrum(singular_values(torch.zeros(12, 2), torch.ones(2, 9)), (12, 9))
    assert (found.rank, found.effective_rank, found.stable_rank, found.top_share) == (0, 0, 0, 0)
    assert (found.frobenius, found.spectral, found.energy_ranks) == (0, 0, (0, 0, 0))


def test_values_of_half_precision_factors_are_exact() -> None:
    b, a = (each.bfloat16() for each in factors(3, 3))
    expected = np.linalg.svd(product(b, a), compute_uv=False)[:3]
    np.testing.assert_allclose(singular_values(b, a), expected, rtol=1e-12)
    assert math.isfinite(effective_rank(singular_values(b, a)))
