"""Projection: nothing is changed; what each parameter does for the loss is summed up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from contpeft.strategies.about import About
from contpeft.strategies.context import Context
from contpeft.strategies.penalty.anchored import Anchored

__all__ = ["PATH", "START", "SumPath"]

PATH, START = "path of ", "start of "


@dataclass(frozen=True)
class SumPath:
    """Sums up ``w = -sum g dtheta`` over the steps of the fit, ``dtheta`` being the applied update (SI).

    Zenke et al. 2017, "Continual Learning Through Synaptic Intelligence", equation 3. The gradient is that of
    the task's own loss, as it is there: the pull of the penalty is taken off. Where gradients are clipped
    that is an approximation, for the clipped sum of both is what can be seen here.

    Attributes:
        penalty: the anchor in the loss, whose pull is taken off with the weight it has there; None for none.
    """

    about: ClassVar[About] = About(paper="Zenke et al. 2017, arXiv 1703.04200, equation 3")

    penalty: Anchored | None = None

    def project(self, context: Context, before: Mapping[str, Tensor]) -> None:
        """Adds the step just taken to the sums, which checkpoints keep."""
        pulls = {} if self.penalty is None else self.penalty.pulls(context, before)
        with torch.no_grad():
            for name, parameter in context.own_parameters.items():
                start, path = START + name, PATH + name
                if start not in context.working:
                    context.working[start] = before[name].clone()
                    context.working[path] = torch.zeros_like(before[name])
                if parameter.grad is None:
                    continue
                own = parameter.grad - pulls.get(name, 0.0)
                summed = context.working[path].to(parameter.device)
                context.working[path] = summed - own * (parameter - before[name])
