from __future__ import annotations

import pytest
import torch

from contpeft.errors import UnsupportedError
from contpeft.merging import merge_heads
from contpeft.merging.heads import Head
from contpeft.spec import HeadSpec

LABELS = ["a@1", "b@2"]


def head(value: float, *classes: str) -> Head:
    return HeadSpec("linear", classes or ("yes", "no")), {"weight": torch.full((2, 3), value)}


def test_keep_leaves_every_head_with_its_adapter() -> None:
    assert merge_heads([head(1.0), head(2.0, "x", "y")], [1, 1], LABELS, "keep") == (None, {})


def test_first_takes_the_first_as_it_is() -> None:
    spec, tensors = merge_heads([head(1.0), None], [1, 1], LABELS, "first")
    assert spec == HeadSpec("linear", ("yes", "no"))
    assert tensors["head.weight"].tolist() == [[1.0] * 3] * 2


def test_average_is_the_weighted_mean_of_equal_heads() -> None:
    spec, tensors = merge_heads([head(1.0), head(4.0)], [2, 1], LABELS, "average")
    assert spec == HeadSpec("linear", ("yes", "no"))
    assert tensors["head.weight"].tolist() == [[2.0] * 3] * 2
    assert tensors["head.weight"].dtype == torch.float32


def test_heads_without_a_mean_are_refused_by_name() -> None:
    told = "that of a@1 answers yes, no, b@2 answers x, y; use --heads keep or first"
    with pytest.raises(UnsupportedError, match=told):
        merge_heads([head(1.0), head(2.0, "x", "y")], [1, 1], LABELS, "average")
    with pytest.raises(UnsupportedError, match="b@2 has none"):
        merge_heads([head(1.0), None], [1, 1], LABELS, "average")
    with pytest.raises(UnsupportedError, match="weights of the mean of heads add up to 0"):
        merge_heads([head(1.0), head(2.0)], [1, -1], LABELS, "average")
    with pytest.raises(UnsupportedError, match="a@1 has no head to take"):
        merge_heads([None, head(2.0)], [1, 1], LABELS, "first")
