"""Which tokens a model is given, read off a call that ends before anything is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn

from contpeft.adapters.prompts.backbone import backbone_of
from contpeft.adapters.prompts.calls import named
from contpeft.errors import UnsupportedError

__all__ = ["NO_TOKEN", "distinct", "reading_tokens"]

NO_TOKEN: Final = -1
"""Stands where a row has no more tokens."""


class _ReadError(Exception):
    """Carries what tokens are out of a forward pass that need go no further."""

    def __init__(self, tokens: Tensor) -> None:
        super().__init__()
        self.tokens = tokens


@contextmanager
def reading_tokens(model: nn.Module) -> Iterator[Callable[[Callable[[], object]], Tensor]]:
    """Yields what returns the distinct tokens ``(B, L)`` of a call of a model, which ends there.

    Args:
        model: the transformers model; what is called has it read one batch.

    Raises:
        UnsupportedError: inside the block, if a call gives the model no ``input_ids``.
    """

    def stop(backbone: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        call = named(backbone, args, kwargs)
        ids, mask = call.get("input_ids"), call.get("attention_mask")
        if ids is not None:
            raise _ReadError(distinct(ids if mask is None else ids.masked_fill(mask == 0, NO_TOKEN)))

    def read(call: Callable[[], object]) -> Tensor:
        try:
            call()
        except _ReadError as reached:
            return reached.tokens
        raise UnsupportedError(
            f"tokens are counted in texts, and {type(model).__name__} was called without input_ids"
        )

    hook = backbone_of(model).register_forward_pre_hook(stop, with_kwargs=True, prepend=True)
    try:
        yield read
    finally:
        hook.remove()


def distinct(tokens: Tensor) -> Tensor:
    """Returns rows of tokens ``(B, L)`` in ascending order, :data:`NO_TOKEN` in place of repeated ones."""
    ordered: Tensor = tokens.sort(1).values
    repeated = torch.zeros_like(ordered, dtype=torch.bool)
    repeated[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    return ordered.masked_fill(repeated, NO_TOKEN)
