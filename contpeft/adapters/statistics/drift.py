"""How features have moved while an adapter was trained on, told from rows that both states have read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from contpeft.errors import SpecError

__all__ = ["Drift"]


@dataclass(frozen=True, eq=False)
class Drift:
    """An affine map from features of before to features of now, ``f + (f - m) R + b``.

    Fitted by ridge regression of the *change* of unit-length features, so that directions in which the rows
    at hand do not vary are taken to have stayed; with no change it is the identity.

    Attributes:
        centre: ``m``, ``(d,)``, the mean of before.
        turn: ``R``, ``(d, d)``.
        shift: ``b``, ``(d,)``, the mean of the change.
    """

    centre: Tensor
    turn: Tensor
    shift: Tensor

    @classmethod
    def between(cls, before: Tensor, now: Tensor, ridge: float = 1.0) -> Self:
        """Returns the drift between two states of an adapter.

        Args:
            before: features ``(n, d)`` of some rows, of any float type.
            now: features ``(n, d)`` of the same rows.
            ridge: the penalty, in units of the mean squared length of the centred rows.

        Raises:
            SpecError: if the features are not of the same rows and width, or the ridge is not positive.
        """
        if before.shape != now.shape:
            raise SpecError(f"features {tuple(before.shape)} and {tuple(now.shape)} are not of the same rows")
        if ridge <= 0:
            raise SpecError(f"a ridge of {ridge} leaves the drift open; give a positive one")
        old, new = (F.normalize(each.detach().to("cpu", torch.float64), dim=1) for each in (before, now))
        change = new - old
        centre, shift = old.mean(0), change.mean(0)
        centred = old - centre
        gram = centred.T @ centred
        # Rows that are all alike tell of the shift alone.
        penalty = max(ridge * float(torch.trace(gram)) / len(old), torch.finfo(torch.float64).tiny)
        regular = gram + penalty * torch.eye(len(gram), dtype=torch.float64)
        turn: Tensor = torch.linalg.solve(regular, centred.T @ (change - shift))
        return cls(centre, turn, shift)

    def moved(self, features: Tensor) -> Tensor:
        """Returns where features ``(n, d)`` are now."""
        return features + (features - self.centre) @ self.turn + self.shift

    def spread(self, scatter: Tensor) -> Tensor:
        """Returns what has become of a scatter matrix ``(d, d)``."""
        map_ = torch.eye(len(self.turn), dtype=torch.float64) + self.turn
        return map_.T @ scatter @ map_
