"""What a site computes with adapters around it: the module it was, and what the adapters add.

``adds`` are the outputs ``u`` of adapters, the lowest first, each a function of what it reads, of shape
``(batch, time, hidden)``, to the same shape. Each reads what those below it have made of the sub-block's
output (Pfeiffer et al., 2020, section 3.3), but those beside the FFN all read what that does.
In all of these, adapters that return zeros leave every bit of what the module computes as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from contpeft.adapters.tuners.sites import Flow

__all__ = ["FLOWS", "Add", "Around", "Base"]

Base = Callable[..., Tensor]
Add = Callable[[Tensor], Tensor]
Adds = Sequence[Add]
Around = Callable[..., Tensor]
"""Maps the module, ``adds``, ``x`` if the site has a normalisation to take it from, and the module's inputs
to what the site computes."""


def _after(base: Base, adds: Adds, x: Tensor | None, *inputs: Any) -> Tensor:
    """Returns ``f + u(f)``."""
    f = base(*inputs)
    for add in adds:
        f = f + add(f)
    return f


def _inside_norm(norm: Base, adds: Adds, x: Tensor | None, total: Tensor) -> Tensor:
    """Returns ``LN(t + u(LN(t)))`` of the sum ``t = f + x``."""
    for add in adds:
        total = total + add(norm(total))
    return norm(total)


def _into_sum(output: Base, adds: Adds, _: Tensor | None, hidden: Tensor, x: Tensor) -> Tensor:
    """Returns ``LN(f + x + u(x))`` of a module that is given ``x`` to add it."""
    return output(hidden, x + _all(adds, x))


def _beside(base: Base, adds: Adds, _: Tensor | None, x: Tensor) -> Tensor:
    """Returns ``f + u(x)`` of an FFN that is given ``x`` itself."""
    return base(x) + _all(adds, x)


def _around_sum(base: Base, adds: Adds, x: Tensor, *inputs: Any) -> Tensor:
    """Returns ``f + u(f + x)``, to which the layer adds ``x``."""
    f = base(*inputs)
    for add in adds:
        f = f + add(f + x)
    return f


def _beside_sum(base: Base, adds: Adds, x: Tensor, *inputs: Any) -> Tensor:
    """Returns ``f + u(x)``, to which the layer adds ``x``."""
    return base(*inputs) + _all(adds, x)


def _all(adds: Adds, x: Tensor) -> Tensor:
    return torch.stack([add(x) for add in adds]).sum(0) if len(adds) > 1 else adds[0](x)


FLOWS: Final[Mapping[Flow, Around]] = {
    "after": _after,
    "inside_norm": _inside_norm,
    "into_sum": _into_sum,
    "beside": _beside,
    "around_sum": _around_sum,
    "beside_sum": _beside_sum,
}
