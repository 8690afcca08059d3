"""Consolidate: statistics that will answer together, and how much each counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import torch

from contpeft.metrics.pooling import Weights, pool_weights
from contpeft.spec import Version
from contpeft.strategies.about import About
from contpeft.strategies.consolidate.gathering import Expert, Taken
from contpeft.strategies.context import Context

__all__ = ["WeighTogether"]

_WEIGHTS: Final = "weights"


@dataclass(frozen=True)
class WeighTogether:
    """Several statistics, with the temperatures at which their product tells the rows of the tasks best.

    A product of probabilities counts twice what two heads know from the same source. So their weights, the
    inverse temperatures, are fitted together, on the rows of the task at hand, each left out of the
    statistics that hold it: no row is held back and none is kept. What earlier tasks told of the weights is
    remembered with how surely they told it, because one task may leave little to tell the heads apart.

    Attributes:
        parts: what gathers the statistics, in their order.
    """

    about: ClassVar[About] = About(
        paper="after Genest and Zidek 1986, Statistical Science 1; Ritter et al. 2018, arXiv 1805.07810"
    )

    parts: tuple[Expert, ...]

    def end(self, context: Context, trained: Version | None) -> tuple[Version, ...]:
        """Adds the task to all statistics, weighs them, and registers them and the weights."""
        taken = [part.take(context, trained) for part in self.parts]
        known = context.recall(_WEIGHTS)
        before = None
        if known is not None:
            before = Weights(known.tensors["values"].numpy(), known.tensors["precision"].numpy())
        weights = _weighed(taken, before)
        if weights is None:  # one class, or one row of each: nothing to tell heads apart by
            return tuple(each.register(1.0) for each in taken)
        tensors = {name: torch.from_numpy(each) for name, each in weights._asdict().items()}
        registered = tuple(
            each.register(1 / weight) for each, weight in zip(taken, weights.values.tolist(), strict=True)
        )
        return (*registered, context.remember(_WEIGHTS, tensors, {}))


def _weighed(taken: list[Taken], before: Weights | None) -> Weights | None:
    """Returns the weights after a task; those before it, or None, where its rows cannot be left out."""
    told = [each.left_out() for each in taken]
    labels, entries = told[0].labels, told[0].entries
    if not entries or len(labels) == 1:
        return before
    return pool_weights([each.scores.numpy() for each in told], entries, labels, before)
