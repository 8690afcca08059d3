"""The factors of the adapters that a way's earlier tasks have left, and how the one at hand meets them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from contpeft.adapters import Factors, LiveFactors, stored_factors
from contpeft.strategies.context import Context

__all__ = ["Meeting", "earlier_factors", "earlier_rows", "meeting"]

AnyFactors = Mapping[str, Factors] | Mapping[str, LiveFactors]


@dataclass(frozen=True)
class Meeting:
    """How an adapter meets those of earlier tasks.

    The two are to be read together: a weaker update has less in common with others, too.

    Attributes:
        overlaps: ``|A_i A^T|_F / (|A_i|_F |A|_F)`` with the row space of each earlier one, the oldest first:
            the mean over modules; 0 for orthogonal ones, at most 1.
        size: ``|dW|_F`` of its update, over all modules.
    """

    overlaps: tuple[float, ...]
    size: float


def meeting(now: AnyFactors, earlier: Sequence[AnyFactors]) -> Meeting:
    """Returns how an adapter meets earlier ones.

    Args:
        now: its factors by module.
        earlier: those of the others; each shares a module with it.
    """
    with torch.no_grad():
        squares = [factors.delta().double().pow(2).sum() for factors in now.values()]
        return Meeting(
            tuple(_overlap(now, each) for each in earlier),
            float(torch.stack(squares).sum().sqrt()),
        )


def earlier_factors(context: Context, part: str) -> list[dict[str, Factors]]:
    """Returns the stored factors of the way's earlier adapters by module, the oldest first; read once.

    Raises:
        UnsupportedError: if one is no LoRA adapter of linear layers, naming the part that asks.
    """

    def read() -> list[dict[str, Factors]]:
        return [stored_factors(context.load(version.ref)[1], part) for version in context.adapters]

    return context.once("earlier factors", read)


def earlier_rows(context: Context, part: str) -> dict[str, Tensor]:
    """Returns the rows of all earlier ``A`` by module, ``(R, d_in)`` on the model's device; made once.

    Raises:
        UnsupportedError: as :func:`earlier_factors` does.
    """

    def gather() -> dict[str, Tensor]:
        found: dict[str, list[Tensor]] = {}
        for factors in earlier_factors(context, part):
            for module, each in factors.items():
                found.setdefault(module, []).append(each.down)
        return {module: torch.cat(rows).to(context.adapted.device) for module, rows in found.items()}

    return context.once("earlier rows", gather)


def _overlap(now: AnyFactors, other: AnyFactors) -> float:
    shared = [
        (now[module].down.cpu().double(), other[module].down.double()) for module in now if module in other
    ]
    each = [(b @ a.T).norm() / (a.norm() * b.norm()) for a, b in shared]
    return float(torch.stack(each).mean())
