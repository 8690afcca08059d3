"""The matrices of a fusion layer: whole, of low rank, or their diagonal alone.

Those that project a query or a key have a bias; that of values is kept as what it is apart from the identity,
so that weight decay, which draws parameters to zero, draws it to the identity, where the regulariser holds
it, and not to nothing. What is of low rank, ``U V``, is never multiplied out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from contpeft.errors import SpecError

__all__ = ["NearIdentity", "Projection", "Rank", "near_identity", "projection"]

Rank = int | Literal["diagonal"] | None
"""The rank of a matrix; ``"diagonal"`` for its diagonal alone, None for a whole matrix."""

# The deviation of the entries of BERT's matrices, which fusion begins with.
_DEVIATION: Final = 0.02
_NEAR_ZERO: Final = 1e-6


class Projection(nn.Module, ABC):
    """A square matrix ``W`` and a bias, ``x -> W x + b``; it begins with normal entries of deviation 0.02.

    Attributes:
        bias: ``(H,)``.
    """

    bias: Tensor

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Returns ``W x + b`` of ``(..., H)``."""

    @abstractmethod
    def transposed(self, x: Tensor) -> Tensor:
        """Returns ``W^T x`` of ``(..., H)``."""

    @abstractmethod
    def reset(self) -> None:
        """Begins anew."""


class NearIdentity(nn.Module, ABC):
    """A square matrix ``I + D`` without bias; it begins as the identity, or nearly so."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Returns ``x + D x`` of ``(..., H)``."""

    @abstractmethod
    def distance(self) -> Tensor:
        """Returns ``||D||_F^2``, a scalar."""

    @abstractmethod
    def reset(self, *, initialized: bool) -> None:
        """Begins anew: near the identity, or with normal entries of deviation 0.02."""


class WholeProjection(Projection):
    """``weight`` ``(H, H)``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = _zeros(width, width), _zeros(width)

    def forward(self, x: Tensor) -> Tensor:
        """Returns ``W x + b``."""
        return F.linear(x, self.weight, self.bias)

    def transposed(self, x: Tensor) -> Tensor:
        """Returns ``W^T x``."""
        return x @ self.weight

    def reset(self) -> None:
        """Begins anew."""
        nn.init.normal_(self.weight, std=_DEVIATION)
        nn.init.zeros_(self.bias)


class LowRankProjection(Projection):
    """``W = U V``: ``up`` ``(H, r)`` and ``down`` ``(r, H)``."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.up, self.down, self.bias = _zeros(width, rank), _zeros(rank, width), _zeros(width)

    def forward(self, x: Tensor) -> Tensor:
        """Returns ``U (V x) + b``."""
        return F.linear(F.linear(x, self.down), self.up, self.bias)

    def transposed(self, x: Tensor) -> Tensor:
        """Returns ``V^T (U^T x)``."""
        return (x @ self.up) @ self.down

    def reset(self) -> None:
        """Begins anew; the entries of the product have the deviation that those of a whole matrix have."""
        deviation = (_DEVIATION / self.up.shape[1] ** 0.5) ** 0.5
        nn.init.normal_(self.up, std=deviation)
        nn.init.normal_(self.down, std=deviation)
        nn.init.zeros_(self.bias)


class DiagonalProjection(Projection):
    """``W = diag(scale)``: ``scale`` ``(H,)``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale, self.bias = _zeros(width), _zeros(width)

    def forward(self, x: Tensor) -> Tensor:
        """Returns ``scale * x + b``."""
        return torch.addcmul(self.bias, x, self.scale)

    def transposed(self, x: Tensor) -> Tensor:
        """Returns ``scale * x``."""
        return x * self.scale

    def reset(self) -> None:
        """Begins anew."""
        nn.init.normal_(self.scale, std=_DEVIATION)
        nn.init.zeros_(self.bias)


class WholeNearIdentity(NearIdentity):
    """``offset`` ``(H, H)`` is ``D``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.offset = _zeros(width, width)

    @property
    def weight(self) -> Tensor:
        """The matrix, ``(H, H)``."""
        return torch.eye(len(self.offset), dtype=self.offset.dtype, device=self.offset.device) + self.offset

    def forward(self, x: Tensor) -> Tensor:
        """Returns ``x + D x``."""
        return x + F.linear(x, self.offset)

    def distance(self) -> Tensor:
        """Returns ``||D||_F^2``."""
        return self.offset.square().sum()

    @torch.no_grad()
    def reset(self, *, initialized: bool) -> None:
        """Begins anew, near the identity as AdapterHub does: 1e-6 beside the diagonal."""
        if initialized:
            self.offset.fill_(_NEAR_ZERO).fill_diagonal_(0.0)
        else:
            nn.init.normal_(self.offset, std=_DEVIATION)
            self.offset.diagonal().sub_(1.0)


class LowRankNearIdentity(NearIdentity):
    """``D = U V``: ``up`` ``(H, r)``, zero at first, and ``down`` ``(r, H)``."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.up, self.down = _zeros(width, rank), _zeros(rank, width)

    def forward(self, x: Tensor) -> Tensor:
        """Returns ``x + U (V x)``."""
        return x + F.linear(F.linear(x, self.down), self.up)

    def distance(self) -> Tensor:
        """Returns ``||U V||_F^2``, which is ``<U^T U, V V^T>``."""
        return ((self.up.T @ self.up) * (self.down @ self.down.T)).sum()

    def reset(self, *, initialized: bool) -> None:
        """Begins anew at the identity, the one start there is; :class:`FusionOptions` refuses the other."""
        nn.init.zeros_(self.up)
        nn.init.normal_(self.down, std=self.down.shape[1] ** -0.5)


class DiagonalNearIdentity(NearIdentity):
    """``D = diag(offset)``: ``offset`` ``(H,)``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.offset = _zeros(width)

    def forward(self, x: Tensor) -> Tensor:
        """Returns ``x + offset * x``."""
        return torch.addcmul(x, x, self.offset)

    def distance(self) -> Tensor:
        """Returns ``||D||_F^2``."""
        return self.offset.square().sum()

    @torch.no_grad()
    def reset(self, *, initialized: bool) -> None:
        """Begins anew, at the identity."""
        nn.init.zeros_(self.offset)
        if not initialized:
            nn.init.normal_(self.offset, mean=-1.0, std=_DEVIATION)


def projection(width: int, rank: Rank) -> Projection:
    """Returns the matrix of queries or keys.

    Args:
        width: ``H``.
        rank: of the matrix.

    Raises:
        SpecError: if the rank is larger than the matrix.
    """
    if rank is None:
        return WholeProjection(width)
    return DiagonalProjection(width) if rank == "diagonal" else LowRankProjection(width, _within(rank, width))


def near_identity(width: int, rank: Rank) -> NearIdentity:
    """Returns the matrix of values; takes and raises what :func:`projection` does."""
    if rank is None:
        return WholeNearIdentity(width)
    if rank == "diagonal":
        return DiagonalNearIdentity(width)
    return LowRankNearIdentity(width, _within(rank, width))


def _within(rank: int, width: int) -> int:
    if rank > width:
        raise SpecError(f"a fusion of rank {rank} is over a layer of width {width}; give a rank up to that")
    return rank


def _zeros(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(shape))
