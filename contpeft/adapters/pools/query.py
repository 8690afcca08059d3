"""The query of a pool: what the model makes of each row without a prefix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from contpeft.adapters.prompts.backbone import is_vision
from contpeft.errors import UnsupportedError

__all__ = ["mean_over_tokens", "queries"]


def queries(backbone: nn.Module, call: Mapping[str, Any]) -> Tensor:
    """Returns the query ``(B, d)`` of each row: of pictures the class token, of texts the mean of the tokens.

    One more pass of the model as it stands but for prefixes, without gradients and without dropout.

    Args:
        backbone: the model without its heads, no prefix in it.
        call: what it is called with, by name.

    Raises:
        UnsupportedError: if the mask says which token sees which.
    """
    mask = call.get("attention_mask")
    _check(mask, "a pool's query")
    with torch.no_grad(), _eval(backbone):
        # Not through __call__, whose hooks would ask for a query again.
        states = cast(Any, backbone).forward(**{**call, "return_dict": True}).last_hidden_state
    if is_vision(backbone):
        return cast(Tensor, states[:, 0]).float()
    return mean_over_tokens(states.float(), mask, "a pool's query")


def mean_over_tokens(states: Tensor, mask: Tensor | None, what: str) -> Tensor:
    """Returns the mean ``(B, d)`` of vectors ``(B, T, d)`` over tokens that are not padding.

    Args:
        states: the vectors.
        mask: ``(B, T)``, 0 where a token is padding; None where none is.
        what: names the mean in an error.

    Raises:
        UnsupportedError: if the mask says which token sees which.
    """
    _check(mask, what)
    if mask is None:
        return states.mean(1)
    weights = mask.to(states)[..., None]
    return (states * weights).sum(1) / weights.sum(1).clamp_min(1.0)


def _check(mask: Any, what: str) -> None:
    if isinstance(mask, Tensor) and mask.ndim != 2:
        raise UnsupportedError(
            f"an attention mask of shape {tuple(mask.shape)} does not tell tokens from padding, and {what} "
            "is a mean over tokens; give one of shape (rows, tokens)"
        )


@contextmanager
def _eval(backbone: nn.Module) -> Iterator[None]:
    training = [module for module in backbone.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
