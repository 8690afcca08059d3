"""The part of a transformers model that is given the inputs, and what it can take before them."""

from __future__ import annotations

import inspect
from typing import Any, Final, cast

from torch import nn

from contpeft.errors import UnsupportedError

__all__ = ["backbone_of", "input_width", "is_causal", "is_vision", "parameter_names", "refuse_unfit"]

_VISION: Final = ("deit", "dinov2", "vit")


def backbone_of(model: nn.Module) -> nn.Module:
    """Returns the model without its heads."""
    return cast(nn.Module, cast(Any, model).base_model)


def is_vision(backbone: nn.Module) -> bool:
    """Returns whether a model reads pictures, by patches."""
    return cast(Any, backbone).config.model_type in _VISION


def is_causal(backbone: nn.Module) -> bool:
    """Returns whether tokens see only those before them."""
    return any(getattr(module, "is_causal", False) for module in backbone.modules())


def input_width(backbone: nn.Module) -> int:
    """Returns the width of the vectors a model reads."""
    told: Any = backbone
    return int(
        told.config.hidden_size if is_vision(backbone) else told.get_input_embeddings().weight.shape[1]
    )


def parameter_names(backbone: nn.Module) -> list[str]:
    """Returns the names of what a model is called with, in order."""
    return list(inspect.signature(type(backbone).forward).parameters)[1:]


def refuse_unfit(backbone: nn.Module, *, prefix: bool) -> None:
    """Refuses a model that cannot take a prompt, or a prefix.

    Raises:
        UnsupportedError: naming what it lacks.
    """
    told: Any = backbone.config
    family, names = told.model_type, parameter_names(backbone)
    if getattr(told, "is_encoder_decoder", False):
        raise UnsupportedError(
            f"prompts are not put into encoder-decoder models ({family}); use a method that is a set of "
            "layers, such as 'lora'"
        )
    if prefix and "past_key_values" not in names:
        raise UnsupportedError(
            f"a {family} model takes no keys and values of earlier tokens, where a prefix would stand; use "
            "'prompt_tuning', or a method that is a set of layers, such as 'lora'"
        )
    if not prefix and not is_vision(backbone) and "inputs_embeds" not in names:
        raise UnsupportedError(
            f"a {family} model takes no vectors for its tokens, so it takes no prompt; use a method that is "
            "a set of layers, such as 'lora'"
        )
