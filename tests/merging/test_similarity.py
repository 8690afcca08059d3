"""Clusters, order and near-duplicates of adapters whose relations are known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from contpeft.merging.similarity import similarity


def products(rows: list[list[float]]) -> NDArray[np.float64]:
    vectors = np.array(rows)
    return vectors @ vectors.T


def test_groups_of_like_direction_are_found_largest_first() -> None:
    names = ["a1", "b1", "a2", "c", "a3", "b2"]
    vectors = [[9, 1, 0], [0, 5, 0], [3, 0, 0], [0, 0, 1], [2, 0, 0.2], [0, 4, 1.0]]
    found = similarity(names, products(vectors))
    assert found.clusters == (("a1", "a2", "a3"), ("b1", "b2"), ("c",))
    assert found.names == tuple(names)
    assert sorted(found.order) == sorted(names)
    places = [found.order.index(name) for name in ("a1", "a2", "a3")]
    assert max(places) - min(places) == 2
    units = np.array(vectors) / np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(found.cosines, units @ units.T, atol=1e-12)


def test_the_cut_is_a_mean_cosine() -> None:
    angle = np.deg2rad([0, 30, 60])
    gram = products(np.stack([np.cos(angle), np.sin(angle)], axis=1).tolist())
    joined = np.mean(np.cos(np.deg2rad([30, 60])))
    assert len(similarity("abc", gram, cut=float(joined) - 0.01).clusters) == 1
    assert similarity("abc", gram, cut=float(joined) + 0.01).clusters in (
        (("a", "b"), ("c",)),
        (("b", "c"), ("a",)),
    )
    assert len(similarity("abc", gram, cut=0.9).clusters) == 3


def test_near_duplicates_are_near_in_size_too_nearest_first() -> None:
    vectors = [[1, 0], [1.02, 0], [10, 0], [10, 0], [0, 1.0]]
    twins = similarity("abcde", products(vectors)).twins
    assert [each.names for each in twins] == [("c", "d"), ("a", "b")]
    assert twins[0].distance == 0
    assert twins[1].distance == pytest.approx(0.02 / 1.02)


def test_opposed_adapters_are_as_far_apart_as_can_be() -> None:
    found = similarity("ab", products([[1, 1], [-2, -2.0]]))
    assert found.cosines[0][1] == pytest.approx(-1)
    assert found.clusters == (("a",), ("b",))


def test_a_zero_adapter_is_like_nothing() -> None:
    found = similarity("abc", products([[0, 0], [1, 0], [2, 0.0]]))
    assert found.cosines[0] == (0, 0, 0)
    assert found.clusters == (("b", "c"), ("a",))
    assert found.twins == ()
