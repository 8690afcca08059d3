"""Projection: updates keep off what earlier tasks read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from contpeft.strategies.about import About
from contpeft.strategies.context import Context
from contpeft.strategies.subspaces import Protected, Subspace

__all__ = ["ProjectUpdate"]


@dataclass(frozen=True)
class ProjectUpdate:
    """What lies in the protected inputs is taken out of each applied update of ``A``.

    Saha et al. 2021, "Gradient Projection Memory", arXiv 2103.09762, equation 7, and the null-space methods
    after it project gradients. Under Adam, momentum or weight decay a projected gradient is no projected
    update; this projects what the optimizer has done: ``A' <- A' - strength * (A' - A) M M^T``.

    Attributes:
        strength: 1 takes all of it out, 0 nothing; between the two is the relaxation ``eta`` of the
            null-space methods (Lu et al. 2024, "Visual Prompt Tuning in Null Space", arXiv 2406.05658).
    """

    about: ClassVar[About] = About(
        paper="Saha et al. 2021, arXiv 2103.09762, equation 7", needs=frozenset({"lora"})
    )

    strength: float = 1.0

    def project(self, context: Context, before: Mapping[str, Tensor]) -> None:
        """Corrects the update; nothing happens while nothing is protected."""
        rows = context.once("projected rows", lambda: _rows(context))
        with torch.no_grad():
            for name, (down, space) in rows.items():
                down.sub_(self.strength * space.onto(down - before[name]))


def _rows(context: Context) -> dict[str, tuple[nn.Parameter, Subspace]]:
    """Returns the factors ``A`` that train, by their names in the module, each with what it keeps off."""
    protected = Protected.recalled(context)
    if protected is None:
        return {}
    names = {id(parameter): name for name, parameter in context.own_parameters.items()}
    return {
        names[id(factors.down)]: (factors.down, protected.of(module).like(factors.down))
        for module, factors in context.factors("projecting updates").items()
        if id(factors.down) in names
    }
