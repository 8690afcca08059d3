"""Init: a new adapter whose first factor is designed from the task's first gradient and stays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from contpeft.adapters import linear_weight, weight_gradients
from contpeft.spec import Base, Parent
from contpeft.strategies.about import AN_ADAPTER, About
from contpeft.strategies.context import Context
from contpeft.strategies.features import as_classifier, evaluating
from contpeft.strategies.init.designed_subspace import freeze_rows, set_down
from contpeft.strategies.init.on_top import OnTop
from contpeft.strategies.subspaces import Protected, Subspace, check_room, grown, leading_rows

__all__ = ["ResidualGradient"]

_PART = "designing a subspace of the first gradient"


@dataclass(frozen=True)
class ResidualGradient(OnTop):
    """A new adapter over all earlier ones, its ``A`` the main directions of the task's first gradient.

    KeepLoRA (2026, arXiv 2601.19659): of the gradient in the full weight, what lies in the base's principal
    input directions and in what earlier tasks read is taken out; ``A`` holds the ``r`` leading right
    singular vectors of the rest and is frozen, ``B`` starts at zero and is trained. Attaching changes no
    output; with one task it is no plain LoRA.

    Where the paper is followed freely: the gradient is the mean over all the task's examples, of the cross
    entropy of cosines to the task's class means (the head that :class:`Cosine` starts with); rows of ``A``
    have the length ``1 / sqrt 3`` as InfLoRA's; both shares are ours.

    Attributes:
        principal: share of the squared singular values of the base's weight whose directions are left
            alone; 0 for none.
        scale: inverse temperature of the cosines.
    """

    about: ClassVar[About] = About(
        paper="KeepLoRA 2026, arXiv 2601.19659",
        growth=AN_ADAPTER,
        needs=frozenset({"examples", "features", "lora"}),
    )

    principal: float = 0.5
    scale: float = 20.0

    def start(self, context: Context) -> tuple[Parent, ...]:
        """Attaches the adapter with its designed factors, which are frozen.

        Raises:
            UnsupportedError: if a layer has fewer free directions than the adapter's rank.
        """
        parents = super().start(context)
        modules = context.factors(_PART)
        means = context.class_means(context.task.classes, _PART)
        with evaluating(context.adapted.module):
            gradients = weight_gradients(context.adapted.model, modules, self._losses(context, means))
        before, main = Protected.recalled(context), self._principal(context)
        for module, factors in modules.items():
            space = main[module] if before is None else before.of(module).joined(main[module].basis())
            check_room(space, len(factors.down), module)
            set_down(factors.down, leading_rows(space, gradients[module].cpu().mT, len(factors.down)))
        freeze_rows(context, _PART)
        return parents

    def _losses(self, context: Context, means: Tensor) -> Iterator[Callable[[], Tensor]]:
        data = context.training_data(_PART)
        rows = F.normalize(means, dim=1).to(context.adapted.device)
        numbers = torch.tensor([context.task.classes.index(label) for label in data.labels])
        batches = context.features.batches(data.inputs, "KeepLoRA")
        for start, batch in zip(range(0, len(numbers), context.batch_size), batches, strict=True):
            labels = numbers[start : start + context.batch_size].to(rows.device)
            yield partial(self._loss, context, batch, rows, labels)

    def _loss(self, context: Context, batch: Any, rows: Tensor, labels: Tensor) -> Tensor:
        """Returns the sum of the cross entropies of a batch: of cosines ``(B, C)`` to class means."""
        features = as_classifier(context.adapted.module, _PART).encode(batch)
        cosines = F.normalize(features, dim=1) @ rows.T
        return F.cross_entropy(self.scale * cosines, labels, reduction="sum")

    def _principal(self, context: Context) -> dict[str, Subspace]:
        """Returns the input directions of the base's weights that hold the share of their energy."""
        modules, model = context.factors(_PART), context.adapted.model
        with context.adapted.applied(Base()):
            weights = {name: linear_weight(name, model.get_submodule(name)) for name in modules}
        grams = {name: weight.cpu().double().mT @ weight.cpu().double() for name, weight in weights.items()}
        nothing = Subspace.nothing
        return {name: grown(nothing(len(gram)), gram, self.principal, "cov") for name, gram in grams.items()}
