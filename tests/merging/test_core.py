"""Core space against dense float64: nothing lost, and nothing that depends on the factors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from merging_oracle import dense, factors, regauged

from contpeft.errors import SpecError
from contpeft.merging import canonical, combine, core_space

SEEDS = st.integers(0, 2**31)


@given(seed=SEEDS, ranks=st.lists(st.integers(1, 4), min_size=1, max_size=3))
def test_nothing_is_lost(seed: int, ranks: list[int]) -> None:
    terms = [(*factors(seed + place, rank), 0.5) for place, rank in enumerate(ranks)]
    updates = [canonical(*term) for term in terms]
    space = core_space(terms)
    assert space.cores.shape == (len(ranks), min(12, sum(ranks)), min(9, sum(ranks)))
    np.testing.assert_allclose(space.u.T @ space.u, np.eye(space.u.shape[1]), atol=1e-13)
    np.testing.assert_allclose(space.v.T @ space.v, np.eye(space.v.shape[1]), atol=1e-13)
    for update, core in zip(updates, space.cores, strict=True):
        again = space.update(core)
        np.testing.assert_allclose(dense(again), dense(update), atol=1e-12)
        np.testing.assert_allclose(again.s, update.s, rtol=1e-9)


@given(seed=SEEDS)
def test_sums_may_be_taken_of_cores(seed: int) -> None:
    parts = [(*factors(seed + place, 2), weight) for place, weight in enumerate((0.5, -1.0, 2.0))]
    space = core_space([(b, a, 1.0) for b, a, _ in parts])
    weights = torch.tensor([weight for *_, weight in parts], dtype=torch.float64)
    merged = space.update(torch.einsum("k,kpq->pq", weights, space.cores))
    np.testing.assert_allclose(dense(merged), dense(combine(parts)), atol=1e-12)


@given(seed=SEEDS)
def test_other_factors_give_the_same_cores(seed: int) -> None:
    parts = [factors(seed + place, 3) for place in range(2)]
    one = core_space([(b, a, 1.0) for b, a in parts])
    other = core_space([(*regauged(b, a, seed + 9), 1.0) for b, a in parts])
    np.testing.assert_allclose(other.cores.abs(), one.cores.abs(), atol=1e-6)


def test_shared_directions_are_counted_once() -> None:
    b, a = factors(1, 3)
    space = core_space([(b, a, 1.0), (b, a, -2.0), (b[:, :2], a[:2], 1.0)])
    assert space.cores.shape == (3, 3, 3)


def test_updates_of_several_weights_share_no_space() -> None:
    with pytest.raises(
        SpecError, match=r"shapes \(12, 9\) and \(5, 9\) cannot be added; .* different weights"
    ):
        core_space([(*factors(0, 2), 1.0), (*factors(0, 2, (5, 9)), 1.0)])
    with pytest.raises(SpecError, match="there is no update to combine"):
        core_space([])


def test_updates_of_nothing_have_an_empty_space() -> None:
    zero = torch.zeros(12, 2), torch.zeros(2, 9), 1.0
    empty = core_space([zero])
    assert empty.cores.shape == (1, 0, 0)
    assert empty.update(empty.cores[0]).rank == 0
    beside = core_space([zero, (*factors(1, 2), 1.0)])
    assert beside.cores.shape == (2, 2, 2)
    assert float(beside.cores[0].abs().max()) == 0.0
