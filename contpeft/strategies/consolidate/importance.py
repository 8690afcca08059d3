"""How what matters to a task is added to what mattered before."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from contpeft.spec import Version
from contpeft.strategies.context import Context

__all__ = ["remember_importance"]


def remember_importance(
    context: Context, memory: str, new: Mapping[str, Tensor], decay: float = 1.0
) -> Version:
    """Registers ``decay * old + new`` as what the memory of that name holds now.

    Args:
        context: the task at hand, learnt.
        memory: its name.
        new: this task's importances, by name.
        decay: of the earlier ones.
    """
    old = context.recall(memory)
    kept = {} if old is None else old.tensors
    summed = {name: each.cpu() + decay * kept.get(name, torch.zeros(())) for name, each in new.items()}
    return context.remember(memory, summed, {})
