"""What a method does around every optimizer step, beside what its layers compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from contpeft.errors import UnsupportedError

__all__ = ["Dynamics", "Together"]


class Dynamics:
    """What a method does around the steps of a fit; this one does nothing.

    Whoever trains calls :meth:`prepare` once the fit's length is known, :meth:`before_step` and
    :meth:`after_step` around every optimizer step, gradients still there, adds :meth:`loss` to every batch's
    loss, and calls :meth:`finish` when training is over.

    Attributes:
        idle: whether there is nothing to call.
        alone: whether it changes its layers on the way, and so must be the only adapter in the model.
        plans: whether it must know how many steps there will be.
        consistency: weight of the distance between two passes over each batch; 0 for one pass.
    """

    idle: ClassVar[bool] = True
    alone: ClassVar[bool] = False
    plans: bool = False
    consistency: float = 0.0

    def prepare(self, total_steps: int | None) -> None:
        """Learns how many optimizer steps the fit has.

        Args:
            total_steps: the number; None if the fit has no planned end, or :attr:`plans` is false.

        Raises:
            SpecError: if nothing can be planned over so many steps.
        """

    def before_step(self) -> None:
        """Is told that the optimizer is about to change the parameters."""

    def after_step(self, step: int) -> None:
        """Is told that the optimizer has changed the parameters; their gradients are still there.

        Args:
            step: how many steps were taken before this one.
        """

    def loss(self) -> Tensor | None:
        """Returns a scalar to add to the loss of a batch, or None."""
        return None

    def finish(self, steps: int) -> None:
        """Is told that training is over.

        Args:
            steps: how many steps were taken.
        """

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps: tensors and primitives."""
        return {}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Takes up what :meth:`state` returned."""


class Together(Dynamics):
    """What several methods do around the steps of one fit.

    Args:
        parts: each method's.

    Raises:
        UnsupportedError: if one of several cannot be together with others.
    """

    def __init__(self, parts: Sequence[Dynamics]) -> None:
        if any(part.alone for part in parts):
            raise UnsupportedError("adalora changes its ranks while it is trained; attach it alone")
        self._parts = [part for part in parts if not part.idle]
        self.consistency = max((part.consistency for part in self._parts), default=0.0)

    @property
    def idle(self) -> bool:  # type: ignore[override]
        """Whether there is nothing to call."""
        return not self._parts

    def before_step(self) -> None:
        """Is told that the optimizer is about to change the parameters."""
        for part in self._parts:
            part.before_step()

    def after_step(self, step: int) -> None:
        """Is told that the optimizer has changed the parameters."""
        for part in self._parts:
            part.after_step(step)
