"""WUDI-Merging, solved."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from contpeft.merging.rules.base import STRICT, Core, RuleSpec
from contpeft.merging.site import Site

__all__ = ["Wudi"]


@dataclass(frozen=True, config=STRICT)
class Wudi(Core):
    """The update that acts on each adapter's inputs as that adapter does (Cheng et al., 2025, equation 12).

    It minimises ``sum_i |(X - D_i) D_i^T|^2 / |D_i|^2``. The paper descends for 300 steps; the objective is
    quadratic, and its minimum of least norm is ``(sum_i D_i G_i) (sum_i G_i)^+`` with
    ``G_i = D_i^T D_i / |D_i|^2``, which has the size of the core.

    Attributes:
        ridge: added to ``sum_i G_i``, as a share of its mean eigenvalue: keeps the result small where inputs
            of adapters are nearly the same.
    """

    ridge: Annotated[float, Field(ge=0)] = 0.0

    spec: ClassVar[RuleSpec] = RuleSpec(
        "wudi",
        "acts on each one's inputs as that one",
        "Cheng et al. (2025)",
        variant="closed form in the core",
    )

    def core(self, site: Site) -> Tensor:
        """Returns the core of the minimum."""
        core = site.space
        norms = core.cores.square().sum((1, 2))
        grams = core.cores.mT @ core.cores / torch.where(norms > 0, norms, 1)[:, None, None]
        total = grams.sum(0)
        total = total + self.ridge * total.diagonal().mean() * torch.eye(len(total), dtype=total.dtype)
        inverse = torch.linalg.pinv(total, hermitian=True)
        minimum: Tensor = (core.cores @ grams).sum(0) @ inverse
        return minimum
