"""Penalty: on the batch at hand the model keeps saying of old classes what it said before."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from contpeft.adapters import competing
from contpeft.errors import UnsupportedError
from contpeft.spec import Single, Version
from contpeft.strategies.about import About
from contpeft.strategies.context import Context
from contpeft.strategies.features import evaluating

__all__ = ["Distilled"]


@dataclass(frozen=True)
class Distilled:
    """Old classes' probabilities on new inputs are held to those of the version before (LwF).

    ``weight * tau^2 * KL(softmax(z_old / tau), softmax(z / tau))``, the mean over the batch, summed over
    earlier tasks, each over its own classes. Li and Hoiem 2016, "Learning without Forgetting", section 3; the
    temperature as in Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", section 2. The
    teacher is the last stored version, in eval mode: one more forward pass a batch.

    Deviations: the divergence where the paper prints the cross-entropy, which differs by a constant and is 0
    at the start; with ``local=True`` heads the old rows stay as they are, and all that is kept from moving is
    what they read.

    Attributes:
        weight: of the term in the loss.
        temperature: of both sides.
    """

    about: ClassVar[About] = About(
        paper="Li and Hoiem 2016, arXiv 1606.09282, section 3", needs=frozenset({"features"})
    )

    weight: float = 1.0
    temperature: float = 2.0

    def loss(self, context: Context, batch: Any, outputs: Any) -> Tensor | None:
        """Returns the term, a scalar; None at the first task.

        Raises:
            UnsupportedError: if the head does not go on from the last version's.
        """
        if context.previous is None:
            return None
        sizes = _sizes(context)
        said, taught = self._said(context, sizes[-1]), self._taught(context, context.previous[0], batch)
        terms = [
            F.kl_div(
                said[:, low:high].log_softmax(1),
                taught[:, low:high].log_softmax(1),
                log_target=True,
                reduction="batchmean",
            )
            for low, high in pairwise(sizes)
            if high > low
        ]
        return self.weight * self.temperature**2 * torch.stack(terms).sum()

    def _said(self, context: Context, classes: int) -> Tensor:
        """Returns scores ``(B, C_old)`` at the temperature, of what the head has just read."""
        features, head = context.tap.features, context.adapted.head
        assert features is not None
        assert head is not None
        with competing(head):
            scores: Tensor = head.forward(features)
        return scores[:, :classes] / self.temperature

    def _taught(self, context: Context, teacher: Version, batch: Any) -> Tensor:
        """Returns the same of the version before."""
        adapted, known = context.adapted, context.previous
        assert known is not None
        with evaluating(adapted.module), adapted.applied(Single(teacher.ref), lambda _ref: known):
            scores: Tensor = adapted.module(batch)
        return scores / self.temperature


def _sizes(context: Context) -> list[int]:
    """Returns how many classes the heads of the versions before have had: 0, then one number for each."""
    heads = [(version.ref, version.head) for version in context.adapters]
    sizes = [0]
    now = getattr(context.adapted.head, "classes", ())
    for ref, head in heads:
        if head is None or not head.classes or head.classes != now[: len(head.classes)]:
            raise UnsupportedError(
                f"distilling needs one growing head, and that of {ref} does not go on in this one; "
                "use a recipe with Cosine(grow=True) or Linear(grow=True)"
            )
        sizes.append(len(head.classes))
    return sizes
