"""Projection: the gate's updates keep off what gates have read on earlier tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from contpeft.strategies.about import About
from contpeft.strategies.context import Context
from contpeft.strategies.gating import gated_at_hand, kept_off
from contpeft.strategies.subspaces import Subspace

__all__ = ["ProjectGate"]


@dataclass(frozen=True)
class ProjectGate:
    """What lies where earlier gates have read is taken out of each applied update of the gate at hand.

    ``W' <- W' - (W' - W) M M^T`` for both layers and the key. Projected gradients would not do: what Adam and
    weight decay make of these is not projected any more, and the new gate opens on earlier rows.
    """

    about: ClassVar[About] = About(paper="Liang et al. 2025, arXiv 2505.15424")

    def project(self, context: Context, before: Mapping[str, Tensor]) -> None:
        """Corrects the update; nothing happens while nothing is remembered.

        Raises:
            UnsupportedError: if there is no gate.
        """
        with torch.no_grad():
            for name, (tensor, space) in context.once("projected gate", lambda: _tensors(context)).items():
                tensor.sub_(space.onto(tensor - before[name]))


def _tensors(context: Context) -> dict[str, tuple[nn.Parameter, Subspace]]:
    """Returns the gate's tensors by their names in the module, each with what it keeps off."""
    names = {id(parameter): name for name, parameter in context.own_parameters.items()}
    protected = kept_off(context, gated_at_hand(context, "projecting a gate's updates").gate)
    return {names[id(tensor)]: (tensor, space.like(tensor)) for tensor, space in protected.values()}
