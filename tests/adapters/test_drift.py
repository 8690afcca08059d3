"""Drift: the affine map between two states, and what becomes of statistics under it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from contpeft.adapters import ClassStatistics, Drift
from contpeft.errors import SpecError

WIDTH = 4


def rows(seed: int, n: int) -> Tensor:
    return torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(2, 30), st.floats(1e-3, 10))
def test_it_is_ridge_regression_of_the_change(seed: int, n: int, ridge: float) -> None:
    before, now = rows(seed, n), rows(seed + 1, n)
    drift = Drift.between(before, now, ridge)
    x, y = F.normalize(before, dim=1).numpy(), F.normalize(now, dim=1).numpy()
    centred, change = x - x.mean(0), y - x
    penalty = ridge * np.sum(centred**2) / n
    turn = np.linalg.solve(
        centred.T @ centred + penalty * np.eye(WIDTH), centred.T @ (change - change.mean(0))
    )
    asked = rows(seed + 2, 5)
    expected = asked.numpy() + (asked.numpy() - x.mean(0)) @ turn + change.mean(0)
    np.testing.assert_allclose(drift.moved(asked), expected, rtol=1e-9, atol=1e-9)


def test_what_has_not_moved_stays_to_the_last_bit() -> None:
    before = rows(0, 9)
    drift, scatter = Drift.between(before, before), torch.eye(WIDTH, dtype=torch.float64)
    assert torch.equal(drift.moved(before), before)
    assert torch.equal(drift.spread(scatter), scatter)


def test_directions_that_did_not_vary_are_taken_to_have_stayed() -> None:
    before = rows(0, 50)
    before[:, 3] = 0
    now = before.clone()
    now[:, 0] += 0.1 * before[:, 1]
    drift = Drift.between(before, now, 1e-3)
    unseen = torch.tensor([[0.0, 0.0, 0.0, 1.0]], dtype=torch.float64)
    moved = drift.moved(unseen) - drift.moved(torch.zeros_like(unseen))
    torch.testing.assert_close(moved, unseen, rtol=0, atol=1e-12)


def test_statistics_follow_as_if_their_rows_had_been_moved() -> None:
    labels = list("ab" * 10)
    statistics, old = ClassStatistics(), F.normalize(rows(0, 20), dim=1)
    statistics.update(old, labels, group=0)
    drift = Drift.between(rows(1, 30), rows(2, 30), 0.1)
    statistics.follow(drift)
    moved = drift.moved(old)
    for entry, label in enumerate("ab"):
        own = moved[[row for row, each in enumerate(labels) if each == label]]
        torch.testing.assert_close(statistics.means[entry], own.mean(0))
    residual = torch.stack(
        [moved[row] - statistics.means["ab".index(each)] for row, each in enumerate(labels)]
    )
    torch.testing.assert_close(statistics.scatter, residual.T @ residual)


def test_rows_that_are_all_alike_tell_of_the_shift_alone() -> None:
    before, now = rows(0, 1).expand(3, -1), rows(1, 1).expand(3, -1)
    drift = Drift.between(before, now)
    assert not drift.turn.any()
    torch.testing.assert_close(drift.shift, (F.normalize(now, dim=1) - F.normalize(before, dim=1))[0])


def test_other_rows_and_no_penalty_are_refused() -> None:
    with pytest.raises(SpecError, match=r"^features \(3, 4\) and \(2, 4\) are not of the same rows$"):
        Drift.between(rows(0, 3), rows(0, 2))
    with pytest.raises(SpecError, match=r"^a ridge of 0 leaves the drift open; give a positive one$"):
        Drift.between(rows(0, 3), rows(1, 3), 0)
