"""Head: an affine map with a random start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from contpeft.adapters import LinearHead
from contpeft.strategies.about import About
from contpeft.strategies.context import Context
from contpeft.strategies.head.growing import Growing, kept_rows

__all__ = ["Linear"]


@dataclass(frozen=True)
class Linear(Growing):
    """An affine head with random new rows, as in most papers.

    Attributes:
        grow: keep the rows of earlier tasks, so that one head answers all classes seen.
        local: only the task's own classes compete, and only their rows change.
    """

    about: ClassVar[About] = About(growth="d + 1 a class", needs=frozenset({"examples", "features"}))

    def start(self, context: Context) -> None:
        """Puts the head in place; new rows are uniform in +-1/sqrt(d), biases zero."""
        kept, rows = kept_rows(context, self.grow, "linear")
        new = [label for label in self.classes(context) if label not in kept]
        width = _feature_width(context)
        rows["weight"].append(torch.empty(len(new), width).uniform_(-(width**-0.5), width**-0.5))
        rows["bias"].append(torch.zeros(len(new)))
        classes = [*kept, *new]
        weight, bias = torch.cat(rows["weight"]), torch.cat(rows["bias"])
        context.adapted.set_head(LinearHead(classes, weight, bias, self.others(context, classes)))


def _feature_width(context: Context) -> int:
    data = context.training_data("a linear head")
    return context.features.current(data.inputs[:1]).shape[1]
