"""What can be put into a model, trained there, taken out and stored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from contpeft.adapters.dynamics import Dynamics

__all__ = ["Attached"]


class Attached(ABC):
    """An adapter, or several in one, in a model; made installed.

    Attributes:
        installed: whether the model computes with it.
        dynamics: what its method does around every step of the optimizer.
    """

    installed: bool
    dynamics: Dynamics = Dynamics()

    @abstractmethod
    def install(self) -> None:
        """Lets the model compute with it; nothing happens if it does."""

    @abstractmethod
    def remove(self) -> None:
        """Lets the model compute as the base does, which is restored exactly."""

    @contextmanager
    def removed(self) -> Iterator[None]:
        """Takes it out inside the block, and puts it back if it was in."""
        was = self.installed
        self.remove()
        try:
            yield
        finally:
            if was:
                self.install()

    @abstractmethod
    def parameters(self) -> list[nn.Parameter]:
        """Returns its own parameters, the base's left out."""

    @abstractmethod
    def trainable(self) -> list[nn.Parameter]:
        """Returns those of its parameters that are trained."""

    @abstractmethod
    def named_parameters(self) -> dict[str, nn.Parameter]:
        """Returns the parameters in use under their names in :meth:`tensors`."""

    @abstractmethod
    def train(self, mode: bool = True) -> None:
        """Puts its own modules in train mode, or in eval mode, the base's left as they are."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Returns its tensors on the CPU, under their names in stored versions."""

    @abstractmethod
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Sets its tensors.

        Raises:
            SpecError: if a tensor is missing, foreign or of another shape; nothing is loaded then.
        """

    @abstractmethod
    def config_json(self) -> dict[str, Any]:
        """Returns its full configuration as plain JSON; ``peft_type`` in it is its kind."""

    def made_json(self) -> dict[str, Any]:
        """Returns the configuration it was made with, whatever training has settled since."""
        return self.config_json()
