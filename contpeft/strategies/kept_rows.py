"""A few rows of every task, kept to measure on: old data, and said to be."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from contpeft.errors import UnsupportedError
from contpeft.spec import Version
from contpeft.strategies.context import Context

__all__ = ["KeptTask", "drawn_rows", "kept_rows", "remember_rows"]

_PART: Final = "rows"


@dataclass(frozen=True)
class KeptTask:
    """The rows of one task that are kept.

    Attributes:
        classes: of the task.
        inputs: raw inputs.
        labels: their label names.
    """

    classes: tuple[str, ...]
    inputs: tuple[Any, ...]
    labels: tuple[str, ...]

    def first(self, count: int) -> KeptTask:
        """Returns the first so many rows, which are drawn at random as all are."""
        return KeptTask(self.classes, self.inputs[:count], self.labels[:count])


def drawn_rows(context: Context, part: str) -> KeptTask:
    """Returns the rows of the task at hand in the order in which they are kept, drawn by the task's seed."""
    data = context.training_data(part)
    order = torch.randperm(len(data.labels), generator=torch.Generator().manual_seed(context.seed)).tolist()
    inputs = tuple(data.inputs[row] for row in order)
    return KeptTask(context.task.classes, inputs, tuple(data.labels[row] for row in order))


def kept_rows(context: Context) -> tuple[KeptTask, ...]:
    """Returns what is kept of earlier tasks, in their order; nothing before the first was learnt."""
    state = context.recall(_PART)
    return () if state is None else tuple(_task(told, state.tensors) for told in state.config["tasks"])


def remember_rows(context: Context, tasks: Sequence[KeptTask]) -> Version:
    """Keeps rows of tasks, instead of what was kept before.

    Raises:
        UnsupportedError: if raw inputs are neither texts, numbers nor tensors.
    """
    tensors: dict[str, Tensor] = {"counts": torch.tensor([len(each.labels) for each in tasks])}
    told = []
    for number, task in enumerate(tasks):
        facts = {"classes": list(task.classes), "labels": list(task.labels)}
        if all(isinstance(each, Tensor) for each in task.inputs):
            own = {f"{number}.{row}": each for row, each in enumerate(task.inputs)}
            tensors |= own
            told.append({**facts, "tensors": list(own)})
        else:
            told.append({**facts, "inputs": [_plain(each) for each in task.inputs]})
    return context.remember(_PART, tensors, {"tasks": told})


def _task(told: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> KeptTask:
    inputs = [tensors[name] for name in told["tensors"]] if "tensors" in told else told["inputs"]
    return KeptTask(tuple(told["classes"]), tuple(map(_frozen, inputs)), tuple(told["labels"]))


def _plain(value: Any) -> Any:
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise UnsupportedError(
            f"rows of {type(value).__name__} cannot be kept to measure on; give texts, numbers or tensors, "
            "or measure without old data"
        ) from error


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
