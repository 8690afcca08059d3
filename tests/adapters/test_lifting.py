"""LDA of random features."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from statistics_rows import rows
from torch.nn import functional as F

from contpeft.adapters import ClassStatistics, StatisticsHead
from contpeft.adapters.statistics.left_out import lda_left_out
from contpeft.adapters.statistics.lifting import RandomFeatures, random_map
from contpeft.errors import SpecError

SHRINKAGE = 0.3


@given(seed=st.integers(0, 10_000))
def test_it_is_lda_of_features_that_were_lifted_beforehand(seed: int) -> None:
    features, labels = rows(seed, 24, 3, 5)
    lifted = F.normalize((features @ random_map(5, 30, 7)).relu(), dim=1)
    inside, outside = ClassStatistics(width=30, seed=7), ClassStatistics()
    inside.update(features, labels, group=0)
    outside.update(lifted, labels, group=0)
    of_features = StatisticsHead(inside.spec("lda", SHRINKAGE), inside.tensors())(features)
    of_lifted = StatisticsHead(outside.spec("lda", SHRINKAGE), outside.tensors())(lifted)
    np.testing.assert_allclose(of_features.numpy(), of_lifted.numpy(), rtol=1e-9, atol=1e-9)
    told = inside.left_out(features, labels, 0, SHRINKAGE)
    moments = outside.means, outside.counts, outside.scatter
    expected = lda_left_out(lifted, told.entries, *moments, SHRINKAGE)
    torch.testing.assert_close(told.scores, expected, rtol=1e-9, atol=1e-9)


def test_a_rest_in_the_store_does_not_show() -> None:
    features, labels = rows(1, 20, 3, 5)
    whole, first = (ClassStatistics(width=16, seed=2) for _ in range(2))
    for statistics, cuts in ((whole, [0, 20]), (first, [0, 20])):
        statistics.update(features[: cuts[1]], labels[: cuts[1]], group=0)
    again = ClassStatistics.from_stored(first.spec("lda"), first.tensors())
    for statistics in (whole, again):
        statistics.update(features, labels, group=1)
    assert all(torch.equal(again.tensors()[name], each) for name, each in whole.tensors().items())
    assert whole.spec("lda").options["width"] == 16
    assert "width" not in ClassStatistics().spec("lda").options


def test_features_of_another_width_are_refused() -> None:
    lift = RandomFeatures(8, 0)
    lift(torch.zeros(1, 3, dtype=torch.float64))
    with pytest.raises(SpecError, match=r"^random features are of features of width 3, got 4"):
        lift(torch.zeros(1, 4, dtype=torch.float64))
    with pytest.raises(SpecError, match=r"^there are no -1 random features"):
        RandomFeatures(-1, 0)
