"""What can be put into a model, trained there, taken out and stored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Self

from torch import Tensor, nn

from contpeft.adapters.dynamics import Dynamics
from contpeft.errors import SpecError, UnsupportedError

__all__ = ["Attached", "check_shapes", "cpu_copy"]


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

    def settle_trainable(self) -> None:
        """Takes those of its parameters that require a gradient now as those that are trained.

        Raises:
            UnsupportedError: if what is trained of an adapter of its kind is not to be chosen.
        """
        raise UnsupportedError(f"what is trained of an adapter of kind {self.kind!r} cannot be chosen")

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

    def filled(self, tensors: Mapping[str, Tensor]) -> Self:
        """Returns itself with these tensors; taken out of the model if they do not fit.

        Raises:
            SpecError: as :meth:`load` does.
        """
        with ExitStack() as undo:
            undo.callback(self.remove)
            self.load(tensors)
            undo.pop_all()
        return self

    @property
    def kind(self) -> str:
        """The kind of the versions that hold it: its method, variants of LoRA being ``lora``."""
        return str(self.made_json()["peft_type"]).lower()

    @abstractmethod
    def config_json(self) -> dict[str, Any]:
        """Returns its full configuration as plain JSON; ``peft_type`` in it is its kind."""

    def made_json(self) -> dict[str, Any]:
        """Returns the configuration it was made with, whatever training has settled since."""
        return self.config_json()


def cpu_copy(tensor: Tensor) -> Tensor:
    """Returns a tensor as versions hold it: a copy on the CPU, contiguous, without a gradient."""
    return tensor.detach().to("cpu", copy=True).contiguous()


def check_shapes(own: Mapping[str, Tensor], given: Mapping[str, Tensor], what: str) -> None:
    """Checks that tensors have the names and shapes of those that they are to replace.

    Args:
        own: those that are there.
        given: those that are to come.
        what: names the latter in the error, with its verb.

    Raises:
        SpecError: if one is missing, foreign or of another shape.
    """
    here = {name: tuple(value.shape) for name, value in own.items()}
    there = {name: tuple(value.shape) for name, value in given.items()}
    wrong = sorted(name for name in {*here, *there} if here.get(name) != there.get(name))
    if wrong:
        raise SpecError(f"{what} not fit: {len(wrong)} tensors differ (first: {wrong[0]})")
