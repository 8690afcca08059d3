"""Consolidate: how much what the model says depends on each parameter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from contpeft.spec import Version
from contpeft.strategies.about import About
from contpeft.strategies.consolidate.importance import remember_importance
from contpeft.strategies.context import Context
from contpeft.strategies.sensitivity import check_row_gradients, factor_importance

__all__ = ["OutputSensitivity"]

_PART = "the output's sensitivity"


@dataclass(frozen=True)
class OutputSensitivity:
    """Remembers how much the scores change with each parameter, labels unasked (MAS).

    ``mean_n |d |f(x_n)|^2|`` over the task's rows, ``f`` the scores of the classes that compete in the task;
    summed over tasks. Aljundi et al. 2018, "Memory Aware Synapses", section 4.1, in the form for the squared
    length of the output. One pass over the task, forward and backward, at its end.

    Attributes:
        memory: the name under which it is remembered.
    """

    about: ClassVar[About] = About(
        paper="Aljundi et al. 2018, arXiv 1711.09601, section 4.1",
        growth="as large as the adapter, once",
        needs=frozenset({"examples", "features", "lora"}),
    )

    memory: str = "sensitivity"

    def check(self, context: Context) -> None:
        """Checks that the task's rows can be derived by the adapter's factors.

        Raises:
            UnsupportedError: if not.
        """
        check_row_gradients(context, _PART)

    def end(self, context: Context, trained: Version | None) -> tuple[Version, ...]:
        """Registers the sensitivities of all tasks so far."""
        new = factor_importance(context, _squared_length, torch.abs, _PART)
        return (remember_importance(context, self.memory, new),)


def _squared_length(scores: Tensor, labels: Tensor) -> Tensor:
    return scores.masked_fill(scores.isneginf(), 0.0).square().sum(1)
