"""Init: a new adapter whose first factor is designed from the task's data and stays."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from contpeft.adapters import freeze_down
from contpeft.spec import Parent
from contpeft.strategies.about import AN_ADAPTER, About
from contpeft.strategies.context import Context
from contpeft.strategies.init.on_top import OnTop
from contpeft.strategies.subspaces import Protected, check_room, leading_rows, read_moments

__all__ = ["DesignedSubspace", "freeze_rows", "set_down"]

_PART = "designing a task's subspace"


@dataclass(frozen=True)
class DesignedSubspace(OnTop):
    """A new adapter over all earlier ones, its ``A`` the task's main directions that none of them needs.

    Liang and Li 2024, "InfLoRA: Interference-Free Low-Rank Adaptation", arXiv 2404.00228, section 3.2:
    ``A^T`` holds the ``r`` leading left singular vectors of ``(I - M M^T) S``, divided by ``sqrt 3``, and is
    frozen; ``B`` starts at zero and is trained. Hence ``B A x = 0`` for every ``x`` in the span of ``M``,
    whatever the optimizer does. ``S`` is the second moment of what the layer reads on the task's data, the
    earlier adapters included; ``M`` is what :class:`ProtectInputs` keeps. Attaching changes no output, but
    the start is of the data: with one task it is no plain LoRA.

    The paper folds each update into the weights; here all of them compute beside the base, which gives the
    same function and leaves the base as it is.
    """

    about: ClassVar[About] = About(
        paper="Liang and Li 2024, arXiv 2404.00228, section 3.2",
        growth=AN_ADAPTER,
        needs=frozenset({"examples", "features", "lora"}),
    )

    def start(self, context: Context) -> tuple[Parent, ...]:
        """Attaches the adapter with its designed factors, which are frozen.

        Raises:
            UnsupportedError: if a layer has fewer free directions than the adapter's rank.
        """
        parents = super().start(context)
        moments = read_moments(context, _PART)
        before = Protected.recalled(context) or Protected.none_yet(moments)
        made: dict[tuple[str, int], Tensor] = {}
        for module, factors in context.factors(_PART).items():
            space, rank = before.of(module), len(factors.down)
            check_room(space, rank, module)
            key = moments.readers[module], rank
            if key not in made:
                made[key] = leading_rows(space, moments.of(module).cpu(), rank)
            set_down(factors.down, made[key])
        freeze_rows(context, _PART)
        return parents


def set_down(down: Tensor, rows: Tensor) -> None:
    """Sets a factor ``A`` to orthonormal rows ``(r, d_in)`` over ``sqrt 3``.

    That is the length which the rows of a random factor of PEFT have in the mean.
    """
    with torch.no_grad():
        down.copy_(rows / math.sqrt(3))


def freeze_rows(context: Context, part: str) -> None:
    """Leaves the factors ``A`` of the attached adapter as they are from now on.

    Args:
        context: the task at hand.
        part: names who asks in an error.
    """
    attached = context.adapted.attachment
    assert attached is not None  # an init has just attached it
    freeze_down(attached, part)
