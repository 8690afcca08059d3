"""Which adapters resemble each other: cosines, near-duplicates and clusters, from inner products."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, leaves_list, linkage
from scipy.spatial.distance import squareform

__all__ = ["CUT", "Similarity", "Twins", "similarity"]

# Adapters belong together from this mean cosine on.
CUT: Final = 0.5
# Two adapters are nearly the same if their difference is at most this part of the larger one.
_NEAR: Final = 0.05


@dataclass(frozen=True)
class Twins:
    """Two adapters that are nearly the same.

    Attributes:
        names: of both.
        distance: norm of their difference over the larger norm.
    """

    names: tuple[str, str]
    distance: float


@dataclass(frozen=True)
class Similarity:
    """How several adapters relate.

    Attributes:
        names: the adapters, in the order they were given.
        cosines: ``k x k``; 0 beside a zero adapter.
        clusters: the adapters in groups, the largest first.
        order: the adapters as the leaves of the cluster tree, so that neighbours resemble each other.
        twins: pairs that are nearly the same, nearest first.
    """

    names: tuple[str, ...]
    cosines: tuple[tuple[float, ...], ...]
    clusters: tuple[tuple[str, ...], ...]
    order: tuple[str, ...]
    twins: tuple[Twins, ...]


def similarity(names: Sequence[str], products: NDArray[np.float64], *, cut: float = CUT) -> Similarity:
    """Returns how adapters relate, from their inner products.

    Clusters are those of average linkage on one minus the cosine, cut where the mean cosine between two
    groups falls below ``cut``.

    Args:
        names: one for each adapter, two or more.
        products: ``(k, k)`` Frobenius inner products of the whole updates.
        cut: the mean cosine that still joins two groups.
    """
    norms = np.sqrt(products.diagonal())
    safe = np.where(norms > 0, norms, 1.0)
    cosines = np.clip(products / np.outer(safe, safe), -1, 1)
    apart = 1 - cosines
    np.fill_diagonal(apart, 0)
    tree = linkage(squareform(apart, checks=False), "average", optimal_ordering=True)
    groups = fcluster(tree, 1 - cut, "distance")
    return Similarity(
        tuple(names),
        tuple(map(tuple, cosines.tolist())),
        _groups(names, groups.tolist()),
        tuple(names[place] for place in leaves_list(tree)),
        _twins(names, products, norms),
    )


def _groups(names: Sequence[str], labels: Sequence[int]) -> tuple[tuple[str, ...], ...]:
    groups: dict[int, list[str]] = defaultdict(list)
    for name, label in zip(names, labels, strict=True):
        groups[label].append(name)
    return tuple(sorted(map(tuple, groups.values()), key=lambda group: (-len(group), names.index(group[0]))))


def _twins(
    names: Sequence[str], products: NDArray[np.float64], norms: NDArray[np.float64]
) -> tuple[Twins, ...]:
    energy = np.square(norms)
    apart = np.sqrt(np.clip(energy[:, None] + energy - 2 * products, 0, None))
    larger = np.maximum.outer(norms, norms)
    distance = apart / np.where(larger > 0, larger, 1)
    places = np.argwhere(np.triu(distance <= _NEAR, 1)).tolist()
    found = [Twins((names[i], names[j]), float(distance[i, j])) for i, j in places]
    return tuple(sorted(found, key=lambda twins: twins.distance))
