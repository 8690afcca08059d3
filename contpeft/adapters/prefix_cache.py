"""Hidden states of rows, kept in memory up to a bound."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from torch import Tensor

from contpeft.errors import SpecError
from contpeft.spec.sizes import parse_bytes

__all__ = ["PrefixCache"]


@dataclass
class _Kept:
    """What is kept of a row, and in which round it was last asked for."""

    states: Tensor
    round: int


class PrefixCache:
    """Keeps hidden states by key; may be shared by models and fits.

    A full cache drops what was last asked for in an earlier round, longest ago first, and takes nothing new
    while all of it was asked for in this one: rows that are read in turn, epoch after epoch, would otherwise
    push each other out before they are read again.

    Args:
        size: of what is kept, in bytes or as ``"256MB"``.

    Attributes:
        size: the bound, in bytes.
        nbytes: what is kept, in bytes.
        hits: how often a row was there.
        misses: how often it was not.

    Raises:
        SpecError: if there is no room for anything.
        UsageError: if the text is no size.
    """

    def __init__(self, size: int | str) -> None:
        self.size = parse_bytes(size) if isinstance(size, str) else size
        if self.size <= 0:
            raise SpecError(
                f"a prefix cache of {self.size} bytes keeps nothing; give it some, or leave it out"
            )
        self.nbytes = self.hits = self.misses = 0
        self._round = 0
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def next_round(self) -> None:
        """Lets what is not asked for from now on make room for what is."""
        self._round += 1

    def get(self, key: bytes) -> Tensor | None:
        """Returns what is kept under a key, or None."""
        found = self._kept.get(key)
        if found is None:
            self.misses += 1
            return None
        self.hits += 1
        found.round = self._round
        self._kept.move_to_end(key)
        return found.states

    def put(self, key: bytes, states: Tensor) -> None:
        """Keeps states under a new key if there is room, or room can be made."""
        size = states.nbytes
        if size > self.size:
            return
        while self.nbytes + size > self.size:
            oldest = next(iter(self._kept))
            if self._kept[oldest].round == self._round:
                return
            self.nbytes -= self._kept.pop(oldest).states.nbytes
        self._kept[key] = _Kept(states, self._round)
        self.nbytes += size
