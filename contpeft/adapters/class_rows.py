"""Rows of a head, one a class, of which some may stay as they are while others learn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from contpeft.errors import SpecError

__all__ = ["ClassRows", "competing"]


class ClassRows(nn.Module):
    """A head over classes, each with its row in every one of its tensors.

    Rows that stay are no parameters: a row without a gradient is still moved by weight decay and momentum.
    While the head is in train mode their classes do not compete, so that a task's loss is over its own.

    Args:
        classes: label names.
        others: positions of the classes whose rows stay as they are.

    Raises:
        SpecError: if a class is named twice.

    Attributes:
        classes: label of each output.
        local: whether the classes whose rows stay get a score of ``-inf`` in train mode.
    """

    def __init__(self, classes: Sequence[str], others: Sequence[int] = ()) -> None:
        super().__init__()
        if len(set(classes)) != len(classes):
            raise SpecError(f"a head names a class twice: {', '.join(classes)}")
        self.classes = tuple(classes)
        self.local = True
        self._others = list(others)
        self._own = [row for row in range(len(classes)) if row not in set(others)]
        order = [*self._own, *self._others]
        self._order = sorted(range(len(order)), key=order.__getitem__)

    def hold(self, name: str, rows: Tensor) -> None:
        """Makes a parameter of the rows that learn, and a buffer of those that stay.

        Args:
            name: of the tensor.
            rows: ``(C, ...)``, a row a class.

        Raises:
            SpecError: if there are more or fewer rows than classes.
        """
        if len(rows) != len(self.classes):
            raise SpecError(
                f"a head of {len(self.classes)} classes needs as many rows, got {tuple(rows.shape)}"
            )
        rows = rows.detach()
        if not self._others:
            setattr(self, name, nn.Parameter(rows.clone()))
            return
        setattr(self, name, nn.Parameter(rows[self._own]))
        self.register_buffer(f"{name}_of_others", rows[self._others])

    def rows(self, name: str) -> Tensor:
        """Returns a tensor with the rows of all classes, in their order."""
        own: Tensor = getattr(self, name)
        if not self._others:
            return own
        return torch.cat([own, getattr(self, f"{name}_of_others")])[self._order]

    def masked(self, scores: Tensor) -> Tensor:
        """Returns scores ``(B, C)``, in train mode ``-inf`` where a class does not compete."""
        if not (self._others and self.training and self.local):
            return scores
        mask = torch.zeros(len(self.classes), dtype=torch.bool, device=scores.device)
        mask[self._others] = True
        return scores.masked_fill(mask, -torch.inf)

    def fill(self, stored: Mapping[str, Tensor]) -> None:
        """Sets its tensors, in place, to those of a head over the same classes; see :meth:`stored`."""
        with torch.no_grad():
            for name, own in self.named_parameters():
                own.copy_(stored[name][self._own])
                if self._others:
                    getattr(self, f"{name}_of_others").copy_(stored[name][self._others])

    def stored(self) -> dict[str, Tensor]:
        """Returns its tensors as versions hold them, with the rows of all classes."""
        return {name: self.rows(name) for name, _ in self.named_parameters()}


@contextmanager
def competing(head: nn.Module | None) -> Iterator[None]:
    """Lets all classes of a head compete inside the block, in train mode too."""
    local = isinstance(head, ClassRows) and head.local
    if isinstance(head, ClassRows):
        head.local = False
    try:
        yield
    finally:
        if isinstance(head, ClassRows):
            head.local = local
