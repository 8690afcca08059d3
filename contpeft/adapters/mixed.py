"""Batches in which each row is answered by a version of its own, with that version's head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from contpeft.adapters.stacked import StackedLora
from contpeft.errors import SpecError

__all__ = ["Mixed", "MixedHead"]


@dataclass(frozen=True)
class Mixed:
    """Versions that answer the rows of one batch together; see :meth:`AdaptedModel.mixed`.

    Attributes:
        stack: their adapters.
        heads: their heads.
        classes: the labels of each head's outputs; empty where a head does not know them.
    """

    stack: StackedLora
    heads: tuple[nn.Module, ...]
    classes: tuple[tuple[str, ...], ...]

    def index(self, rows: Sequence[int] | Tensor, device: torch.device) -> Tensor:
        """Returns which version answers each row, ``(B,)``.

        Raises:
            SpecError: if a row names a version that is not there.
        """
        index = torch.as_tensor(rows, device=device)
        wrong = index[(index < 0) | (index >= len(self.heads))]
        if wrong.numel():
            raise SpecError(f"a row names version {int(wrong[0])} of {len(self.heads)}, counted from 0")
        return index

    def scores(self, features: Tensor) -> list[tuple[Tensor, tuple[str, ...]]]:
        """Returns what every head says of all features ``(n, d)``: its scores and labels, on the CPU.

        Raises:
            SpecError: if a head does not know its labels.
        """
        if not all(self.classes):
            raise SpecError("a mixture needs heads that know the labels of their outputs")
        device = next(self.heads[0].parameters()).device
        with torch.no_grad():
            told = [head(features.to(device)).cpu() for head in self.heads]
        return list(zip(told, self.classes, strict=True))


class MixedHead(nn.Module):
    """The heads of a mixed batch.

    Args:
        heads: one a version.
        rows: ``(B,)``, which head scores each row.
    """

    def __init__(self, heads: Sequence[nn.Module], rows: Tensor) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)
        self._rows = rows

    def forward(self, features: Tensor) -> Tensor:
        """Returns the scores of every row by its own head, ``(B, C)``.

        ``C`` is the largest number of outputs of any head in the batch; a row has ``-inf`` beyond its own.

        Args:
            features: ``(B, ..., d)``, as a head takes them.

        Raises:
            SpecError: if there are more or fewer rows than were named.
        """
        if len(features) != len(self._rows):
            raise SpecError(f"a batch of {len(features)} rows meets heads for {len(self._rows)}")
        found = [(self._rows == head).nonzero().squeeze(1) for head in range(len(self.heads))]
        scored = [
            (rows, head(features[rows])) for rows, head in zip(found, self.heads, strict=True) if len(rows)
        ]
        width = max(scores.shape[-1] for _, scores in scored)
        first = scored[0][1]
        out: Tensor = first.new_full((len(features), *first.shape[1:-1], width), -torch.inf)
        for rows, scores in scored:
            out[rows, ..., : scores.shape[-1]] = scores
        return out
