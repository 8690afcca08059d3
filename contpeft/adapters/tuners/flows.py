"""What a site computes with an adapter around it: the module it was, and what the adapter adds.

``add`` is the sum of the adapters' own outputs ``u``, of shape ``(batch, time, hidden)`` as what they read.
In all of these, adapters that return zeros leave every bit of what the module computes as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from torch import Tensor

from contpeft.adapters.tuners.sites import Flow

__all__ = ["FLOWS", "Add", "Around", "Base"]

Base = Callable[..., Tensor]
Add = Callable[[Tensor], Tensor]
Around = Callable[..., Tensor]
"""Maps the module, ``add``, ``x`` if the site has a normalisation to take it from, and the module's inputs
to what the site computes."""


def _after(base: Base, add: Add, x: Tensor | None, *inputs: Any) -> Tensor:
    """Returns ``f + u(f)``."""
    f = base(*inputs)
    return f + add(f)


def _inside_norm(norm: Base, add: Add, x: Tensor | None, total: Tensor) -> Tensor:
    """Returns ``LN(t + u(LN(t)))`` of the sum ``t = f + x``."""
    return norm(total + add(norm(total)))


def _into_sum(output: Base, add: Add, _: Tensor | None, hidden: Tensor, x: Tensor) -> Tensor:
    """Returns ``LN(f + x + u(x))`` of a module that is given ``x`` to add it."""
    return output(hidden, x + add(x))


def _beside(base: Base, add: Add, _: Tensor | None, x: Tensor) -> Tensor:
    """Returns ``f + u(x)`` of an FFN that is given ``x`` itself."""
    return base(x) + add(x)


def _around_sum(base: Base, add: Add, x: Tensor, *inputs: Any) -> Tensor:
    """Returns ``f + u(f + x)``, to which the layer adds ``x``."""
    f = base(*inputs)
    return f + add(f + x)


def _beside_sum(base: Base, add: Add, x: Tensor, *inputs: Any) -> Tensor:
    """Returns ``f + u(x)``, to which the layer adds ``x``."""
    return base(*inputs) + add(x)


FLOWS: Final[Mapping[Flow, Around]] = {
    "after": _after,
    "inside_norm": _inside_norm,
    "into_sum": _into_sum,
    "beside": _beside,
    "around_sum": _around_sum,
    "beside_sum": _beside_sum,
}
