"""Where the user's module keeps its head, and the heads that are put there."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from contpeft.adapters.find import find_head, get_path, set_path
from contpeft.adapters.heads import build_head
from contpeft.adapters.mlp_head import check_reads
from contpeft.errors import SpecError
from contpeft.spec import AdapterState

__all__ = ["HeadPlace"]


class HeadPlace:
    """The place of the head in a module, and the user's own head as it was first seen.

    Args:
        module: the user's module.
        model: the transformers model in it.
        model_path: where that is.
        path: where the head is; found when None.

    Attributes:
        path: the dotted path of the head in the module; None when there is none.
    """

    def __init__(self, module: nn.Module, model: nn.Module, model_path: str, path: str | None) -> None:
        self._module, self._model = module, model
        self.path = find_head(module, model, model_path, path)
        self._placed: nn.Module | None = None
        self._own: nn.Module | None = None
        self._remember()

    @property
    def head(self) -> nn.Module | None:
        """The head, or None."""
        return None if self.path is None else get_path(self._module, self.path)

    @property
    def inner(self) -> nn.Module | None:
        """The head if it sits inside the transformers model."""
        head = self.head
        return head if head is not None and any(head is each for each in self._model.modules()) else None

    def put(self, head: nn.Module) -> None:
        """Puts ``head`` in the place, on the model's device.

        Raises:
            SpecError: if the module has no place for a head.
        """
        if self.path is None:
            raise SpecError(
                f"{type(self._module).__name__} has no head to replace; name its place with head='...'"
            )
        self._remember()
        self._placed = head.to(next(self._model.parameters()).device)
        set_path(self._module, self.path, self._placed)

    def reset(self) -> None:
        """Puts back the user's own head as it was first seen."""
        self._remember()
        if self._own is not None:
            self.put(_copied(self._own))

    def built(self, state: AdapterState) -> nn.Module:
        """Returns a stored head: ours are rebuilt, the user's own gets its tensors back.

        Raises:
            SpecError: if there is none, or the stored tensors do not fit the user's head.
        """
        if state.head is None:
            raise SpecError("a version without a head has none to put in place")
        stored = state.head_tensors()
        with torch.inference_mode(False):
            if state.head.kind != "own":
                if self.inner is not None:
                    check_reads(state.head, self._model)
                return build_head(state.head, stored)
            self._remember()
            if self._own is None or _shapes(self._own.state_dict()) != _shapes(stored):
                raise SpecError(
                    f"the stored head ({state.head.options.get('module')}) does not fit "
                    f"{type(self._module).__name__}.{self.path}; "
                    "build the module with the head it was trained with"
                )
            head = _copied(self._own)
            head.load_state_dict(stored)
        return head

    def _remember(self) -> None:
        """Keeps the user's head as it is when first seen, whenever the user has put another in place."""
        if self.head is not self._placed:
            self._placed = self.head
            self._own = None if self.head is None else _copied(self.head)


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _copied(head: nn.Module) -> nn.Module:
    with torch.inference_mode(False):  # so that the copy can be trained
        return copy.deepcopy(head)
