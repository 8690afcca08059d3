"""Consolidate: the diagonal of the Fisher information of what was learnt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from contpeft.spec import Version
from contpeft.strategies.about import About
from contpeft.strategies.consolidate.importance import remember_importance
from contpeft.strategies.context import Context
from contpeft.strategies.sensitivity import check_row_gradients, factor_importance, update_importance

__all__ = ["Fisher", "log_likelihood"]

_PART = "the Fisher information"


@dataclass(frozen=True)
class Fisher:
    """Remembers how sharply the task's likelihood depends on each parameter (EWC).

    ``F_t = mean_n (d log p(y_n | x_n))^2`` over the task's rows, each row by itself: the gradient of a
    batch's mean would underestimate it by up to the batch's size. Summed over tasks in its online form,
    ``F <- decay F + F_t``. Kirkpatrick et al. 2017, equation 3; online: Schwarz et al. 2018, "Progress and
    Compress", section 4. One pass over the task, forward and backward, at its end.

    Attributes:
        memory: the name under which it is remembered.
        of: ``"factors"`` for the parameters ``A`` and ``B`` one by one; ``"update"`` for the entries of
            ``s B A``, which does not change when the factors share it in another way.
        labels: ``"data"`` for the labels of the rows (the empirical Fisher information), ``"model"`` for
            labels drawn from what the model says (the true one).
        decay: of what earlier tasks have left; 1 keeps all.
        normalise: divide ``F_t`` by its mean, so that tasks count the same and the penalty's weight needs no
            new search for another model.
    """

    about: ClassVar[About] = About(
        paper="Kirkpatrick et al. 2017, arXiv 1612.00796; Schwarz et al. 2018, arXiv 1805.06370",
        growth="as large as the adapter (or as its dense update), once",
        needs=frozenset({"examples", "features", "lora"}),
    )

    memory: str = "fisher"
    of: Literal["factors", "update"] = "factors"
    labels: Literal["data", "model"] = "data"
    decay: float = 1.0
    normalise: bool = False

    def check(self, context: Context) -> None:
        """Checks that the task's rows can be derived by the adapter's factors.

        Raises:
            UnsupportedError: if not.
        """
        check_row_gradients(context, _PART)

    def end(self, context: Context, trained: Version | None) -> tuple[Version, ...]:
        """Registers the Fisher information of all tasks so far."""
        derive = factor_importance if self.of == "factors" else update_importance
        new = derive(context, log_likelihood(self.labels, context.seed), torch.square, _PART)
        new = _of_mean_one(new) if self.normalise else new
        return (remember_importance(context, self.memory, new, self.decay),)


def log_likelihood(labels: Literal["data", "model"], seed: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Returns the log-likelihood ``(B,)`` of each row as a function of scores ``(B, C)`` and labels ``(B,)``.

    Args:
        labels: which ones: those of the rows, or those drawn from the scores' softmax.
        seed: of the draw.
    """
    generator = torch.Generator().manual_seed(seed)

    def objective(scores: Tensor, given: Tensor) -> Tensor:
        logs = F.log_softmax(scores, dim=1)
        if labels == "model":
            drawn = torch.multinomial(logs.detach().exp().cpu(), 1, generator=generator)
            given = drawn.squeeze(1).to(scores.device)
        return logs.gather(1, given.unsqueeze(1)).squeeze(1)

    return objective


def _of_mean_one(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns values scaled so that their mean over all entries is 1; zeros stay zeros."""
    total = torch.stack([each.sum() for each in values.values()]).sum()
    mean = total / sum(each.numel() for each in values.values())
    return {name: each / mean.clamp_min(torch.finfo(each.dtype).tiny) for name, each in values.items()}
