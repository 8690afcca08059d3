"""The maths of a fused site written out in numpy, token by token (Pfeiffer et al., 2021, section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from contpeft.adapters.fusion import FusionOptions

Array = NDArray[np.float64]


def matrix(held: Mapping[str, Array], name: str) -> Array:
    """Returns the query, key or value matrix that parameters stand for, whole."""
    if f"{name}.up" in held:
        product = held[f"{name}.up"] @ held[f"{name}.down"]
    else:
        found = next(
            held[f"{name}.{part}"] for part in ("weight", "scale", "offset") if f"{name}.{part}" in held
        )
        product = np.diag(found) if found.ndim == 1 else found
    return product + np.eye(len(product)) if name == "value" else product


def fused_by_hand(
    held: Mapping[str, Array],
    options: FusionOptions,
    source: Array,
    outputs: Array,
    residual: Array,
    heat: float = 1.0,
) -> Array:
    """Returns what a fused site says, ``(B, T, H)``.

    Args:
        held: the parameters of the fusion layer.
        options: what it is made of.
        source: ``(B, T, H)``, what scores.
        outputs: ``(B, T, N, H)``, what each adapter says.
        residual: ``(B, T, H)``.
        heat: of the softmax.
    """
    held = {name: np.asarray(value, dtype=np.float64) for name, value in held.items()}
    result = np.zeros(source.shape)
    for b, t in np.ndindex(*source.shape[:2]):
        r = residual[b, t]
        q = matrix(held, "query") @ source[b, t] + held["query.bias"] if options.query else source[b, t]
        said = [u + r if options.residual_before else u for u in outputs[b, t]]
        keys = [matrix(held, "key") @ u + held["key.bias"] if options.key else u for u in said]
        scores = np.array([q @ k for k in keys]) / heat
        weights = np.exp(scores - scores.max())
        weights /= weights.sum()
        values = [matrix(held, "value") @ u if options.value else u for u in said]
        result[b, t] = sum(weight * value for weight, value in zip(weights, values, strict=True))
        result[b, t] += 0 if options.residual_before else r
    return result


def penalty_by_hand(held: Mapping[str, Array]) -> float:
    """Returns ``0.01 ||I - W_v||_F^2``."""
    value = matrix({name: np.asarray(each, dtype=np.float64) for name, each in held.items()}, "value")
    return 0.01 * float(np.sum((np.eye(len(value)) - value) ** 2))
