"""Penalty: on the batch at hand the model keeps saying of old classes what it said before."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from contpeft.adapters.class_rows import ClassRows
from contpeft.errors import UnsupportedError
from contpeft.spec import AdapterState, Single, Version
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
        sizes, head = _sizes(context), context.adapted.head
        features = context.tap.features
        assert isinstance(head, ClassRows)
        assert features is not None
        taught, teacher = self._taught(context, context.previous, batch)
        # The student's rows in the teacher's head: what is equal is computed alike, to the last bit.
        rows = {name: each[: sizes[-1]] for name, each in head.stored().items()}
        said = functional_call(teacher, rows, (features,))
        terms = []
        for low, high in pairwise(sizes):
            now, before = ((each[:, low:high] / self.temperature).log_softmax(1) for each in (said, taught))
            terms.append(F.kl_div(now, before, log_target=True, reduction="batchmean"))
        return self.weight * self.temperature**2 * torch.stack(terms).sum()

    def _taught(
        self, context: Context, teacher: tuple[Version, AdapterState], batch: Any
    ) -> tuple[Tensor, nn.Module]:
        """Returns scores ``(B, C_old)`` of the version before, and its head."""
        adapted, composition = context.adapted, Single(teacher[0].ref)
        with evaluating(adapted.module), adapted.applied(composition, lambda _ref: teacher):
            scores: Tensor = adapted.module(batch)
            head = adapted.head
        assert head is not None
        return scores, head


def _sizes(context: Context) -> list[int]:
    """Returns where the classes of each earlier task end, from 0 on; a task without new ones has no end."""
    now, sizes = context.adapted.head, {0: None}
    for version in context.adapters:
        known = version.head.classes if version.head else ()
        if not isinstance(now, ClassRows) or not known or known != now.classes[: len(known)]:
            raise UnsupportedError(
                f"distilling needs one growing head, and that of {version.ref} does not go on in this one; "
                "use a recipe with Cosine(grow=True) or Linear(grow=True)"
            )
        sizes[len(known)] = None
    return list(sizes)
