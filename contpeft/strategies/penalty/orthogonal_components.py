"""Penalty: the components of a pool stay at right angles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from contpeft.strategies.about import About
from contpeft.strategies.context import Context
from contpeft.strategies.pool import pool_of

__all__ = ["OrthogonalComponents"]


@dataclass(frozen=True)
class OrthogonalComponents:
    """``||X X^T - I||_F^2`` over the components, the keys and the attention of a pool, frozen ones included.

    Smith et al. 2023, "CODA-Prompt", section 4.3; the released scripts leave it out.

    Attributes:
        weight: of the sum.
    """

    about: ClassVar[About] = About(paper="Smith et al. 2023, arXiv 2211.13218, section 4.3")

    weight: float = 0.1

    def loss(self, context: Context, batch: Any, outputs: Any) -> Tensor:
        """Returns the weighted sum, a scalar.

        Raises:
            UnsupportedError: if no pool is attached.
        """
        return self.weight * pool_of(context, "keeping components at right angles").dependence()
