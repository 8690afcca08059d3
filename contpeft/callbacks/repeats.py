"""A fit that was done before is not done again: its result is taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import lightning.pytorch as L

from contpeft.adapters.class_rows import ClassRows
from contpeft.spec import AdapterState, Version
from contpeft.strategies import Context, Recipe, fit_key

__all__ = ["Repeats"]


@dataclass
class Repeats:
    """Fits with the settings of the one at hand, and whether it would only repeat one of them.

    Ways that differ in what they do *after* a task (merge, route, gather statistics) train the same
    adapters. Each fit starts from a state of weights, rows and random numbers; where two start from
    the same, they end with the same.

    Attributes:
        known: ``name@n`` of what such fits registered, by :func:`~contpeft.strategies.fit_key`.
        key: of the fit at hand, once it is attached; None where it cannot be told.
        same: what the same fit has registered before; None if there was none.
    """

    known: Mapping[str, str]
    key: str | None = None
    same: Version | None = None

    def look(self, context: Context, recipe: Recipe) -> None:
        """Finds out whether this was trained before, from the state it starts in."""
        self.key = fit_key(context, recipe)
        ref = None if self.key is None else self.known.get(self.key)
        self.same = None if ref is None else context.store.show(ref)

    def skip(self, trainer: L.Trainer) -> None:
        """Lets the trainer take no step if it was; optimizers and schedules have been built by then."""
        if self.same is not None:
            trainer.fit_loop.max_epochs = 0

    def take(self, context: Context, same: Version) -> AdapterState:
        """Puts the weights of the same fit in place and returns them."""
        state, adapted = context.store.load(same.ref), context.adapted
        if adapted.attachment is not None:
            adapted.attachment.load(state.adapter_tensors())
        if isinstance(adapted.head, ClassRows):
            adapted.head.fill(state.head_tensors())  # which rows learn and which stay is left as it is
        else:
            adapted.load_head(state)
        return state
