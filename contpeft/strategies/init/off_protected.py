"""Init: a new adapter that starts beside what earlier tasks read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from contpeft.spec import Parent
from contpeft.strategies.about import AN_ADAPTER, About
from contpeft.strategies.context import Context
from contpeft.strategies.init.on_top import OnTop
from contpeft.strategies.subspaces import Protected, Subspace, check_room

__all__ = ["OffProtected"]

_PART = "starting beside what is protected"


@dataclass(frozen=True)
class OffProtected(OnTop):
    """A new adapter over all earlier ones, its ``A`` without what lies in the protected inputs.

    With :class:`ProjectUpdate` it stays so, and what earlier tasks read passes the new adapter by; ``B``
    is free. At the first task nothing is protected, and this is a plain fresh adapter.

    Attributes:
        strength: how much of what lies in the protected inputs is taken out, 1 for all, 0 for nothing.
        gradients: take it out of the gradients, too, as gradient projection has it (Saha et al. 2021,
            arXiv 2103.09762, equation 7). That alone is no projection of what Adam then does: a step is
            divided element by element, and weight decay acts on top.
    """

    about: ClassVar[About] = About(
        paper="Saha et al. 2021, arXiv 2103.09762, section 4",
        growth=AN_ADAPTER,
        needs=frozenset({"lora"}),
    )

    strength: float = 1.0
    gradients: bool = False

    def check(self, context: Context) -> None:
        """Checks that the adapter has factors.

        Raises:
            UnsupportedError: if not.
        """
        context.factors(_PART)

    def start(self, context: Context) -> tuple[Parent, ...]:
        """Attaches the adapter and takes what is protected out of its start.

        Raises:
            UnsupportedError: if all is taken out, and a layer has fewer free directions than the rank.
        """
        parents = super().start(context)
        protected = Protected.recalled(context)
        if protected is None or not self.strength:
            return parents
        for module, factors in context.factors(_PART).items():
            if self.strength == 1:
                check_room(protected.of(module), len(factors.down), module)
            space = protected.of(module).like(factors.down)
            with torch.no_grad():
                factors.down.sub_(self.strength * space.onto(factors.down))
            if self.gradients:
                factors.down.register_hook(partial(self._without, space))  # type: ignore[no-untyped-call]
        return parents

    def _without(self, space: Subspace, gradient: Tensor) -> Tensor:
        return gradient - self.strength * space.onto(gradient)
