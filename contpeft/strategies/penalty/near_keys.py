"""Penalty: the keys of a pool are pulled to the queries that pick them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from contpeft.strategies.about import About
from contpeft.strategies.context import Context
from contpeft.strategies.pool import pool_of

__all__ = ["NearKeys"]


@dataclass(frozen=True)
class NearKeys:
    """The cosine distance of queries to the keys picked for them, over all that are picked.

    Wang et al. 2022, "Learning to Prompt for Continual Learning", section 4.3. Without it no gradient reaches
    a key.

    Attributes:
        weight: of the distance.
    """

    about: ClassVar[About] = About(paper="Wang et al. 2022, arXiv 2112.08654, section 4.3")

    weight: float = 0.5

    def loss(self, context: Context, batch: Any, outputs: Any) -> Tensor:
        """Returns the weighted mean distance over the batch, a scalar.

        Raises:
            UnsupportedError: if no pool is attached.
        """
        return self.weight * pool_of(context, "pulling keys to queries").distance()
