"""Head: cosines to rows that start at class means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from contpeft.adapters import CosineHead
from contpeft.strategies.about import About
from contpeft.strategies.context import Context
from contpeft.strategies.head.growing import Growing, kept_rows

__all__ = ["Cosine"]


@dataclass(frozen=True)
class Cosine(Growing):
    """A cosine head whose new rows start at the class means of the model as it stands.

    Qi et al. 2018, "Low-Shot Learning with Imprinted Weights", section 3.2.

    Attributes:
        grow: keep the rows of earlier tasks, so that one head answers all classes seen.
        local: only the task's own classes compete, and only their rows change.
        scale: inverse temperature of the cosine.
    """

    about: ClassVar[About] = About(
        paper="Qi et al. 2018, arXiv 1712.07136, section 3.2",
        growth="d a class",
        needs=frozenset({"examples", "features"}),
    )

    scale: float = 20.0

    def start(self, context: Context) -> None:
        """Puts the head in place."""
        kept, rows = kept_rows(context, self.grow, "cosine")
        new = [label for label in self.classes(context) if label not in kept]
        if new:
            rows["weight"].append(context.class_means(new, "a cosine head that starts at class means"))
        classes = [*kept, *new]
        head = CosineHead(classes, torch.cat(rows["weight"]), self.scale, self.others(context, classes))
        context.adapted.set_head(head)
