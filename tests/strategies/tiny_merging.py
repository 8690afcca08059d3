"""Dense float64 answers for what recipes merge."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from contpeft.adapters import stored_factors
from contpeft.store import AdapterStore

Dense = dict[str, NDArray[np.float64]]


def dense(store: AdapterStore, ref: str) -> Dense:
    """Returns what a stored LoRA adapter adds to each weight, from nothing but its tensors."""
    factors: Any = stored_factors(store.load(ref), "this test")
    return {
        module: scale * (up.double().numpy() @ down.double().numpy())
        for module, (down, up, scale) in factors.items()
    }


def combined(*terms: tuple[float, Dense]) -> Dense:
    """Returns a sum of updates with weights."""
    modules = {module for _, update in terms for module in update}
    return {module: np.sum([weight * update[module] for weight, update in terms], 0) for module in modules}


def assert_close(one: Dense, other: Dense, tolerance: float = 1e-5) -> None:
    """Compares updates, relative to the largest entry of all."""
    size = max(float(np.abs(matrix).max()) for matrix in other.values())
    assert one.keys() == other.keys()
    for module, matrix in other.items():
        np.testing.assert_allclose(one[module] / size, matrix / size, rtol=0, atol=tolerance)
