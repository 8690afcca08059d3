"""How large a merged adapter may get: its rank in each module, or one budget for all of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from torch import Tensor

from contpeft.errors import SpecError
from contpeft.merging.budget import rank_for_energy, water_fill

__all__ = ["Rank"]

Kind = Literal["full", "same", "number", "energy", "total", "bytes"]
_FORMS: Final = "'full', 'same', 16, 'energy:0.95', 'total:384' or 'bytes:2MB'"
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([kMG]?)B?\Z")
_UNITS: Final = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}


@dataclass(frozen=True)
class Rank:
    """How many singular values of each merged update stay, always the largest.

    Attributes:
        kind: ``"full"`` keeps the exact result; ``"same"`` the highest rank among the inputs of a module;
            ``"number"`` at most ``value`` in each module; ``"energy"`` the fewest with that share of the
            squared singular values in each module; ``"total"`` that many over all modules, and ``"bytes"``
            as many as fit, each where it saves most.
        value: see there.
    """

    kind: Kind = "full"
    value: float = 0

    @classmethod
    def parse(cls, text: str) -> Rank:
        """Returns the rank that ``full``, ``same``, ``16``, ``energy:0.95``, ``total:384``, ... stands for.

        Raises:
            SpecError: if it is none of them.
        """
        kind, _, value = text.partition(":")
        if text in ("full", "same"):
            return cls("full" if text == "full" else "same")
        if kind == "energy" and re.fullmatch(r"0?\.\d+|1(\.0*)?", value) and float(value) > 0:
            return cls("energy", float(value))
        if kind == "bytes" and (size := _SIZE.match(value)):
            return cls("bytes", int(float(size[1]) * _UNITS[size[2]]))
        number = value if kind == "total" else text
        if number.isascii() and number.isdecimal() and int(number) > 0:
            return cls("total" if kind == "total" else "number", int(number))
        raise SpecError(f"rank {text!r} cannot be meant; write {_FORMS}")

    @property
    def shared(self) -> bool:
        """Whether modules share one budget, so that all spectra are needed before the first is cut."""
        return self.kind in ("total", "bytes")

    def of_module(self, s: Tensor, largest: int) -> int:
        """Returns the rank of one merged update, where modules share no budget.

        Args:
            s: ``(r,)`` singular values of what is to be cut, going down.
            largest: the highest rank among the inputs.
        """
        if self.kind == "energy":
            return rank_for_energy(s, self.value)
        limits = {"full": s.numel(), "same": largest, "number": int(self.value)}
        return min(s.numel(), limits[self.kind])

    def of_all(self, spectra: Mapping[str, Tensor], sizes: Mapping[str, int]) -> dict[str, int]:
        """Returns the rank of each module where they share a budget.

        Args:
            spectra: ``(r,)`` singular values of each merged update, going down.
            sizes: the bytes that one singular value of it takes when stored.
        """
        costs = sizes if self.kind == "bytes" else dict.fromkeys(spectra, 1)
        return water_fill(spectra, costs, int(self.value))

    def __str__(self) -> str:
        if self.kind in ("full", "same"):
            return self.kind
        value = f"{self.value:g}" if self.kind == "energy" else str(int(self.value))
        return value if self.kind == "number" else f"{self.kind}:{value}"
