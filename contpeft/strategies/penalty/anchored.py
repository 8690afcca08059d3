"""Penalty: what mattered to earlier tasks stays where it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from contpeft.errors import SpecError
from contpeft.strategies.about import About
from contpeft.strategies.context import Context

__all__ = ["Anchored"]


class _Anchor(NamedTuple):
    """One of the adapter's parameters, where it was when the last task was learnt, and what that matters."""

    name: str
    parameter: nn.Parameter
    value: Tensor
    importance: Tensor


@dataclass(frozen=True)
class Anchored:
    """Pulls each parameter back to where the last task left it, the more the more it mattered (EWC, SI, MAS).

    ``weight / 2 * sum_j F_j (theta_j - theta*_j)^2`` over the adapter's parameters, ``theta*`` the last
    version's and ``F`` what a part such as :class:`~contpeft.strategies.consolidate.Fisher` remembers.
    Kirkpatrick et al. 2017, equation 3; with one anchor and one sum of importances as in online EWC (Schwarz
    et al. 2018), not one per task. Zenke et al. 2017 and Aljundi et al. 2018 print the term without the half.
    The head is not anchored: with ``local=True`` the rows of earlier tasks do not change anyway.

    Attributes:
        memory: what the importances are remembered under.
        weight: of the term in the loss.
    """

    about: ClassVar[About] = About(paper="Kirkpatrick et al. 2017, arXiv 1612.00796, equation 3")

    memory: str = "fisher"
    weight: float = 2000.0

    def loss(self, context: Context, batch: Any, outputs: Any) -> Tensor | None:
        """Returns the term, a scalar; None at the first task.

        Raises:
            SpecError: if what is remembered is of none of the parameters.
        """
        anchors = self._anchors(context)
        if not anchors:
            return None
        context.once(self._in_loss, lambda: self.weight)
        terms = [(each.importance * (each.parameter - each.value).square()).sum() for each in anchors]
        return self.weight / 2 * torch.stack(terms).sum()

    def pulls(self, context: Context, at: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns the gradient of the term, ``weight * F (theta - theta*)``, by the names in the module.

        The weight is the one with which the term is in the loss; where it is not there, nothing pulls.

        Args:
            context: the task at hand.
            at: the values at which it is asked for, by the same names.
        """
        anchors, weight = self._anchors(context), context.once(self._in_loss, lambda: 0.0)
        return {each.name: weight * each.importance * (at[each.name] - each.value) for each in anchors}

    @property
    def _in_loss(self) -> str:
        return f"weight of {self.memory} in the loss"

    def _anchors(self, context: Context) -> list[_Anchor]:
        return context.once(f"anchors of {self.memory}", lambda: self._found(context))

    def _found(self, context: Context) -> list[_Anchor]:
        importances, attached = context.recall(self.memory), context.adapted.attachment
        if importances is None or context.previous is None or attached is None:
            return []
        named = attached.named_parameters()
        if not importances.tensors.keys() & named:
            raise SpecError(
                f"{self.memory!r} remembers no importances of the adapter's parameters; "
                'give Fisher(of="factors") with Anchored, or AnchoredUpdate'
            )
        places = {id(parameter): name for name, parameter in context.own_parameters.items()}
        values, device = context.previous[1].tensors, context.adapted.device
        return [
            _Anchor(places[id(parameter)], parameter, values[name].to(device), matters.to(device))
            for name, parameter in named.items()
            if (matters := importances.tensors.get(name)) is not None
        ]
