"""The heads of merged adapters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from contpeft.errors import UnsupportedError
from contpeft.spec import AdapterState, HeadSpec

__all__ = ["Head", "Heads", "merge_heads"]

# Each adapter's head stays with it; or the merged adapter gets the first one's, or the mean of all.
Heads = Literal["keep", "first", "average"]
# A head and its tensors by their names in it.
Head = tuple[HeadSpec, dict[str, Tensor]]


def merge_heads(
    heads: Sequence[Head | None], weights: Sequence[float], labels: Sequence[str], how: Heads
) -> tuple[HeadSpec | None, dict[str, Tensor]]:
    """Returns the head of a merged adapter and its tensors under the names a version keeps them by.

    Args:
        heads: of the adapters.
        weights: of the adapters.
        labels: what the adapters are called, for messages.
        how: see :data:`Heads`.

    Raises:
        UnsupportedError: if there is no head to take, or heads have no mean: other classes, another kind.
    """
    if how == "keep":
        return None, {}
    if heads[0] is None:
        raise UnsupportedError(f"{labels[0]} has no head to take; keep each adapter's own with --heads keep")
    if how == "first":
        spec, tensors = heads[0]
        return spec, _prefixed(tensors)
    given = [_alike(heads[0], head, labels[0], label) for head, label in zip(heads, labels, strict=True)]
    total = sum(weights)
    if total == 0:
        raise UnsupportedError("the weights of the mean of heads add up to 0; take another: --heads first")
    spec, first = given[0]
    mean = {}
    for name, like in first.items():
        terms = [tensors[name].double() * (w / total) for (_, tensors), w in zip(given, weights, strict=True)]
        mean[name] = sum(terms[1:], start=terms[0]).to(like.dtype)
    return spec, _prefixed(mean)


def _alike(first: Head, head: Head | None, label: str, other: str) -> Head:
    if head is None or head[0] != first[0]:
        told = "has none" if head is None else f"answers {', '.join(head[0].classes) or head[0].kind}"
        raise UnsupportedError(
            f"heads of other classes have no mean: that of {label} answers "
            f"{', '.join(first[0].classes) or first[0].kind}, {other} {told}; use --heads keep or first"
        )
    return head


def _prefixed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{AdapterState.HEAD_PREFIX}{name}": tensor for name, tensor in tensors.items()}
