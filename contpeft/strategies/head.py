"""Parts: how a task's classifier head starts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from contpeft.adapters import CosineHead, LinearHead
from contpeft.errors import SpecError
from contpeft.strategies.context import Context

__all__ = ["Cosine", "Linear", "Own"]


@dataclass(frozen=True)
class Own:
    """The module's own head: as first seen for a fresh adapter, as stored for a continued one."""

    def classes(self, context: Context) -> tuple[str, ...]:
        """Returns the task's labels."""
        return context.task.classes

    def start(self, context: Context) -> None:
        """Puts the module's own head in its starting state."""
        if context.parents and context.previous is not None:
            context.adapted.load_head(context.previous[1])
        else:
            context.adapted.reset_head()


@dataclass(frozen=True)
class Cosine:
    """A cosine head whose new rows start at the class means of the model as it stands.

    Qi et al. 2018, "Low-Shot Learning with Imprinted Weights", section 3.2.

    Attributes:
        grow: keep the rows of earlier tasks, so that one head answers all classes seen.
        scale: inverse temperature of the cosine.
    """

    grow: bool = False
    scale: float = 20.0

    def classes(self, context: Context) -> tuple[str, ...]:
        """Returns the labels seen so far when growing, else the task's own."""
        return context.seen if self.grow else context.task.classes

    def start(self, context: Context) -> None:
        """Puts the head in place."""
        kept, rows = _kept_rows(context, self.grow, "cosine")
        new = [label for label in self.classes(context) if label not in kept]
        if new:
            rows["weight"].append(context.class_means(new, "a cosine head that starts at class means"))
        context.adapted.set_head(CosineHead([*kept, *new], torch.cat(rows["weight"]), self.scale))


@dataclass(frozen=True)
class Linear:
    """An affine head with random new rows, as in most papers.

    Attributes:
        grow: keep the rows of earlier tasks, so that one head answers all classes seen.
    """

    grow: bool = False

    def classes(self, context: Context) -> tuple[str, ...]:
        """Returns the labels seen so far when growing, else the task's own."""
        return context.seen if self.grow else context.task.classes

    def start(self, context: Context) -> None:
        """Puts the head in place; new rows are uniform in +-1/sqrt(d), biases zero."""
        kept, rows = _kept_rows(context, self.grow, "linear")
        new = [label for label in self.classes(context) if label not in kept]
        width = _feature_width(context)
        rows["weight"].append(torch.empty(len(new), width).uniform_(-(width**-0.5), width**-0.5))
        rows["bias"].append(torch.zeros(len(new)))
        head = LinearHead([*kept, *new], torch.cat(rows["weight"]), torch.cat(rows["bias"]))
        context.adapted.set_head(head)


def _kept_rows(context: Context, grow: bool, kind: str) -> tuple[tuple[str, ...], dict[str, list[Tensor]]]:
    """Returns the labels and rows of the last head, or nothing when they are not kept."""
    rows: dict[str, list[Tensor]] = {"weight": [], "bias": []}
    if not grow or context.previous is None:
        return (), rows
    version, state = context.previous
    head, seen = state.head, context.seen
    if head is None or head.kind != kind or head.classes != seen[: len(head.classes)]:
        raise SpecError(
            f"the head of {version.ref} cannot grow: it is no {kind} head over the first of the classes "
            f"{', '.join(seen)}; keep one recipe and one order of tasks under one name"
        )
    for name, tensor in state.head_tensors().items():
        rows[name].append(tensor)
    return head.classes, rows


def _feature_width(context: Context) -> int:
    data = context.training_data("a linear head")
    return context.features.current(data.inputs[:1]).shape[1]
