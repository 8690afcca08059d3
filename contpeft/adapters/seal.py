"""The identity of a base model, computed again only when one of its tensors may have changed."""

from __future__ import annotations

import torch
from torch import nn

from contpeft.adapters.fingerprint import base_model, base_seal
from contpeft.spec import BaseModel

__all__ = ["Seal"]


class Seal:
    """What a base model is, kept until a tensor of it is written or replaced."""

    def __init__(self) -> None:
        self._known: BaseModel | None = None
        self._tensors: list[tuple[int, int, torch.dtype]] = []

    def identity(self, model: nn.Module, head: nn.Module | None) -> BaseModel:
        """Returns the base's identity.

        Args:
            model: with no adapter in it.
            head: the head inside the model, which is no part of the base.
        """
        tensors = base_seal(model, head)
        if self._known is None or tensors != self._tensors:
            self._known, self._tensors = base_model(model, head), tensors
        return self._known

    def break_open(self) -> None:
        """Forgets what is known, so that it is computed anew."""
        self._known = None
