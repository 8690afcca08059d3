"""Init and projection: whole weights are trained outside a growing set of singular directions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from contpeft.adapters import SingularDirections, singular_directions
from contpeft.errors import UnsupportedError
from contpeft.spec import AdapterSpec, Parent
from contpeft.strategies.about import About
from contpeft.strategies.context import Context
from contpeft.strategies.init.from_last import FromLast

__all__ = ["OrthogonalSubspace"]

_PART = "training outside singular directions"


@dataclass(frozen=True)
class _Kept:
    """What no step may change: the first columns of a factor, and what it has along others.

    Attributes:
        factor: ``(d, n)``, a view of what is trained.
        stay: how many columns stay.
        beside: orthonormal ``(d, k + stay)``, what the others stay orthogonal to.
    """

    factor: Tensor
    stay: int
    beside: Tensor

    def restore(self, before: Tensor) -> None:
        moved = self.factor[:, self.stay :] - before[:, self.stay :]
        self.factor[:, self.stay :].sub_(self.beside @ (self.beside.mT @ moved))
        self.factor[:, : self.stay].copy_(before[:, : self.stay])


@dataclass(frozen=True)
class OrthogonalSubspace(FromLast):
    """Whole weights are trained outside their main singular directions, more of which stay with every task.

    Nayak et al. 2025, "Sculpting Subspaces" (OSF), arXiv 2504.07097, section 3, on PEFT's method ``osf``: of
    the base's weight the main directions stay, the trained part is kept orthogonal to them. One object is
    both the recipe's ``init`` and its ``projection``. Attaching changes no output but for rounding.

    PEFT alone loses tasks: a second adapter starts from the bare base again, or the first has to be merged
    into it for good. Here the trained part goes on from the last version, the base is never written; at
    every task it becomes its own singular value decomposition, and its first directions, which earlier
    tasks use most, stay bit for bit. Where PEFT projects gradients, the applied update is projected, which
    holds under Adam and weight decay, too.

    Where the paper is followed freely: it gives layers that matter more a larger share; here all have the
    same.

    Attributes:
        main: share of the base's singular directions that stay from the start.
        growth: share of all directions that stay for every task learnt.
    """

    about: ClassVar[About] = About(
        paper="Nayak et al. 2025, arXiv 2504.07097, section 3", growth="nothing; whole matrices once"
    )

    main: float = 0.5
    growth: float = 0.05

    def start(self, context: Context) -> tuple[Parent, ...]:
        """Attaches the last version, its directions in order, or a fresh adapter at the first task.

        Raises:
            UnsupportedError: if no direction would be left to train, or the last version is no ``osf``.
        """
        if context.previous is None:
            context.adapted.attach(self._spec(context))
        else:
            version, state = context.previous
            context.adapted.check_base(version)
            context.adapted.attach_state(state)
        for each in singular_directions(context.adapted.attachment, _PART):
            self._check_left(each, self._count(context, each))
            if context.previous is not None:
                each.order()
        self._kept(context)
        return () if context.previous is None else (Parent(context.previous[0].ref, "continued"),)

    def project(self, context: Context, before: Mapping[str, Tensor]) -> None:
        """Keeps what stays, and the update orthogonal to it."""
        names = {id(p): name for name, p in context.own_parameters.items()}
        with torch.no_grad():
            for each, count, left, right in self._kept(context):
                left.restore(before[names[id(each.left)]])
                right.restore(before[names[id(each.right)]].mT)
                each.sizes[:count] = before[names[id(each.sizes)]][:count]

    def _kept(self, context: Context) -> list[tuple[SingularDirections, int, _Kept, _Kept]]:
        """Returns what stays, as it was before the first step."""
        return context.once("kept directions", lambda: self._find_kept(context))

    def _find_kept(self, context: Context) -> list[tuple[SingularDirections, int, _Kept, _Kept]]:
        found = []
        for each in singular_directions(context.adapted.attachment, _PART):
            count = self._count(context, each)
            left, right = each.left.detach(), each.right.detach().mT
            found.append(
                (each, count, _kept(left, count, each.main_left), _kept(right, count, each.main_right))
            )
        return found

    def _count(self, context: Context, each: SingularDirections) -> int:
        """Returns how many of the trained part's directions stay at this task."""
        whole = min(len(each.left), each.right.shape[1])
        return len(context.adapters) * math.ceil(self.growth * whole)

    def _check_left(self, each: SingularDirections, count: int) -> None:
        if count >= len(each.sizes):
            raise UnsupportedError(
                f"{_PART} has none left at {each.layer!r}: {count} of {len(each.sizes)} would stay; give a "
                "smaller growth or main share"
            )

    def _spec(self, context: Context) -> AdapterSpec:
        """Returns the way's spec if it is of the method, else one with the same targets."""
        given = context.spec
        if not isinstance(given, AdapterSpec):
            raise UnsupportedError(f"{_PART} makes its own adapter; give an AdapterSpec with the targets")
        if given.method == "osf":
            return given
        targets = given.options.get("targets", given.options.get("target_modules"))
        return AdapterSpec("osf", effective_rank=self.main, targets=targets)


def _kept(factor: Tensor, count: int, main: Tensor) -> _Kept:
    return _Kept(factor, count, torch.cat([main, factor[:, :count]], dim=1))
