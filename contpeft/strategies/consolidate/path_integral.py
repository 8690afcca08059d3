"""Consolidate: what each parameter did for the loss on its way through the task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from contpeft.spec import Version
from contpeft.strategies.about import About
from contpeft.strategies.consolidate.importance import remember_importance
from contpeft.strategies.context import Context
from contpeft.strategies.projection.sum_path import PATH, START
from contpeft.strategies.sensitivity import stored_names

__all__ = ["PathIntegral"]


@dataclass(frozen=True)
class PathIntegral:
    """Remembers what each parameter has taken off the loss for the way it went (SI).

    ``max(0, w) / ((theta_end - theta_start)^2 + damping)``, summed over tasks, where ``w`` is what
    :class:`~contpeft.strategies.projection.SumPath` has summed up. Zenke et al. 2017, "Continual Learning
    Through Synaptic Intelligence", equations 3 to 5. Deviation: a parameter that raised the loss counts
    nothing, for a negative importance would push it away from where it is.

    Attributes:
        memory: the name under which it is remembered.
        damping: keeps what hardly moved from counting without bound.
    """

    about: ClassVar[About] = About(
        paper="Zenke et al. 2017, arXiv 1703.04200, equations 3 to 5",
        growth="as large as the adapter, once",
    )

    memory: str = "path"
    damping: float = 1e-3

    def end(self, context: Context, trained: Version | None) -> tuple[Version, ...]:
        """Registers the importances of all tasks so far."""
        names, new = stored_names(context), {}
        with torch.no_grad():
            for name, parameter in context.own_parameters.items():
                moved = parameter - context.working[START + name].to(parameter.device)
                taken = context.working[PATH + name].to(parameter.device).clamp_min(0)
                new[names[id(parameter)]] = taken / (moved.square() + self.damping)
        return (remember_importance(context, self.memory, new),)
