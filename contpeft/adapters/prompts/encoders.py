"""The trained vectors of a prompt, and the networks that make them."""

from __future__ import annotations

from typing import Any, cast

import torch
from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from torch import Tensor, nn

from contpeft.adapters.naming import method_of
from contpeft.adapters.prompts.backbone import is_vision
from contpeft.adapters.prompts.configs import is_prefix, tokens_of
from contpeft.errors import SpecError

__all__ = ["Folded", "fresh_encoder", "is_folded", "stored_encoder", "stored_shape", "vectors"]

_REFUSALS = (AttributeError, ImportError, KeyError, OSError, RuntimeError, TypeError, ValueError)


class Folded(nn.Module):
    """Vectors that are trained themselves.

    Args:
        vectors: of shape ``(P, width)``; copied.
    """

    def __init__(self, vectors: Tensor) -> None:
        super().__init__()
        count, width = vectors.shape
        self.embedding = nn.Embedding(count, width, _weight=vectors.detach().clone())

    def forward(self, indices: Tensor) -> Tensor:
        """Returns the vectors at ``indices``."""
        found: Tensor = self.embedding(indices)
        return found


def fresh_encoder(config: PeftConfig, backbone: nn.Module) -> nn.Module:
    """Returns PEFT's own network for a prompt, with random weights.

    Raises:
        SpecError: if PEFT refuses the options.
    """
    kind: Any = PEFT_TYPE_TO_TUNER_MAPPING[cast(Any, config.peft_type)]
    method = method_of(config)
    words = None if is_vision(backbone) else cast(Any, backbone).get_input_embeddings()
    with torch.inference_mode(False):
        try:
            made = kind(config, words) if method == "prompt_tuning" else kind(config)
        except _REFUSALS as error:
            raise SpecError(f"method {method!r} refuses {type(backbone).__name__}: {error}") from error
    return cast(nn.Module, made)


def stored_encoder(config: PeftConfig) -> Folded:
    """Returns vectors, all zero, of the shape in which a version holds them."""
    with torch.inference_mode(False):
        return Folded(torch.zeros(stored_shape(config)))


def stored_shape(config: PeftConfig) -> tuple[int, int]:
    """Returns the shape of the vectors: how many there are, and how wide."""
    told: Any = config
    return tokens_of(config), told.token_dim * (2 * told.num_layers if is_prefix(config) else 1)


def is_folded(encoder: nn.Module) -> bool:
    """Returns whether an encoder is nothing but its vectors."""
    return [name for name, _ in encoder.named_parameters()] == ["embedding.weight"]


def vectors(encoder: nn.Module, count: int) -> Tensor:
    """Returns the ``count`` vectors that an encoder makes, of shape ``(P, width)``."""
    indices = torch.arange(count, device=next(encoder.parameters()).device)
    made: Tensor = encoder(indices[None])  # with a batch dimension, as networks over the sequence want it
    return made[0]
