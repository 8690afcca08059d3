"""Inner products, distances and angles against dense float64."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from merging_oracle import dense, factors, regauged

from contpeft.merging import (
    canonical,
    cosines,
    distance,
    energy_inside,
    gram,
    inner,
    principal_cosines,
    principal_sines,
)

SEEDS = st.integers(0, 2**31)
RANKS = st.integers(1, 5)


@given(seed=SEEDS, ranks=st.lists(RANKS, min_size=1, max_size=4))
def test_products_and_cosines(seed: int, ranks: list[int]) -> None:
    updates = [canonical(*factors(seed + place, rank), 0.5) for place, rank in enumerate(ranks)]
    flat = np.stack([dense(update).ravel() for update in updates])
    products = flat @ flat.T
    np.testing.assert_allclose(gram(updates), products, atol=1e-12 * np.abs(products).max())
    lengths = np.sqrt(np.diag(products))
    np.testing.assert_allclose(cosines(updates), products / np.outer(lengths, lengths), atol=1e-12)
    np.testing.assert_allclose(inner(updates[0], updates[-1]), products[0, -1], atol=1e-11)


def test_a_zero_update_has_no_direction() -> None:
    zero, one = canonical(torch.zeros(12, 2), torch.zeros(2, 9)), canonical(*factors(1, 2))
    np.testing.assert_allclose(cosines([zero, one]), [[0, 0], [0, 1]], atol=1e-15)
    assert float(energy_inside(zero, one, "input")) == 0.0
    assert float(energy_inside(one, zero, "input")) == 0.0
    assert principal_cosines(zero, one, "output").shape == (0,)


@given(seed=SEEDS, rank=RANKS)
def test_distance(seed: int, rank: int) -> None:
    one, other = canonical(*factors(seed, rank)), canonical(*factors(seed + 1, 3))
    np.testing.assert_allclose(distance(one, other), np.linalg.norm(dense(one) - dense(other)), rtol=1e-12)


def test_small_distances_are_seen() -> None:
    b, a = factors(1, 4)
    one = canonical(b, a)
    assert float(distance(one, canonical(*regauged(b, a, 2)))) < 1e-12
    moved = b.clone()
    moved[0, 0] += 1e-7
    expected = 1e-7 * float(a[0].norm())
    np.testing.assert_allclose(distance(one, canonical(moved, a)), expected, rtol=1e-6)


@given(seed=SEEDS)
def test_angles_between_ranges(seed: int) -> None:
    one, other = canonical(*factors(seed, 3)), canonical(*factors(seed + 1, 4))
    for side, basis in (("output", 0), ("input", 1)):
        u = np.linalg.svd(dense(one))[0 if basis == 0 else 2]
        w = np.linalg.svd(dense(other))[0 if basis == 0 else 2]
        u, w = (u[:, :3], w[:, :4]) if basis == 0 else (u[:3].T, w[:4].T)
        expected = np.linalg.svd(u.T @ w, compute_uv=False)
        np.testing.assert_allclose(principal_cosines(one, other, side), expected, atol=1e-12)
        sines = principal_sines(one, other, side)
        np.testing.assert_allclose(sines.square().numpy() + np.square(expected), 1, atol=1e-10)


def test_tiny_angles_are_seen() -> None:
    plane = torch.eye(12, dtype=torch.float64)
    tilted = plane[:, :1] + 1e-9 * plane[:, 1:2]
    row = torch.ones(1, 9, dtype=torch.float64)
    one, other = canonical(plane[:, :1], row), canonical(tilted, row)
    np.testing.assert_allclose(principal_sines(one, other, "output"), [1e-9], rtol=1e-6)
    assert float(principal_cosines(one, other, "output")) == 1.0


@given(seed=SEEDS)
def test_energy_inside_another(seed: int) -> None:
    one, other = canonical(*factors(seed, 4)), canonical(*factors(seed + 1, 2))
    d, w = dense(one), np.asarray(other.u)
    expected = np.linalg.norm(w @ w.T @ d) ** 2 / np.linalg.norm(d) ** 2
    np.testing.assert_allclose(energy_inside(one, other, "output"), expected, atol=1e-12)
    v = np.asarray(other.v)
    expected = np.linalg.norm(d @ v @ v.T) ** 2 / np.linalg.norm(d) ** 2
    np.testing.assert_allclose(energy_inside(one, other, "input"), expected, atol=1e-12)
    np.testing.assert_allclose(energy_inside(one, one, "input"), 1, atol=1e-12)
