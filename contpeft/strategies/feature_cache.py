"""Features of data sets, kept in memory up to a bound."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from torch import Tensor

__all__ = ["FeatureCache"]

_SIZE: Final = 2**30

Key = tuple[str, str]
"""What computed the features (for the bare base its fingerprint), and the digest of the data."""


class FeatureCache:
    """Keeps features by what computed them and of which data; may be shared by the tasks of a run.

    What was asked for longest ago makes room first: features of compositions before those of the bare base,
    which every task asks for again. Features larger than the bound are not kept.

    Args:
        size: of what is kept, in bytes.

    Attributes:
        size: the bound, in bytes.
        nbytes: what is kept, in bytes.
    """

    def __init__(self, size: int = _SIZE) -> None:
        self.size = size
        self.nbytes = 0
        self._of_parts: OrderedDict[Key, Tensor] = OrderedDict()
        self._of_base: OrderedDict[Key, Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._of_parts) + len(self._of_base)

    def __contains__(self, key: Key) -> bool:
        return key in self._of_parts or key in self._of_base

    def of_base(self, key: Key, compute: Callable[[], Tensor]) -> Tensor:
        """Returns what is kept of the bare base's features; computed, and kept, where it is not."""
        return self._found(self._of_base, key, compute)

    def of_part(self, key: Key, compute: Callable[[], Tensor]) -> Tensor:
        """Returns the same of a composition's features."""
        return self._found(self._of_parts, key, compute)

    def _found(self, kept: OrderedDict[Key, Tensor], key: Key, compute: Callable[[], Tensor]) -> Tensor:
        if key in kept:
            kept.move_to_end(key)
            return kept[key]
        features = compute()
        if features.nbytes <= self.size:
            self._make_room(features.nbytes)
            kept[key] = features
            self.nbytes += features.nbytes
        return features

    def _make_room(self, wanted: int) -> None:
        while self.nbytes + wanted > self.size:
            _, dropped = (self._of_parts or self._of_base).popitem(last=False)
            self.nbytes -= dropped.nbytes
