"""Configurations of prompt methods, with what the model decides filled in."""

from __future__ import annotations

from typing import Any, Final

from peft import PeftConfig, PromptLearningConfig
from torch import nn

from contpeft.adapters.naming import method_of
from contpeft.adapters.prompts.backbone import backbone_of, input_width, is_causal, refuse_unfit
from contpeft.errors import SpecError

__all__ = ["PROMPT_METHODS", "completed", "is_prefix", "is_prompt", "tokens_of"]

PROMPT_METHODS: Final = ("p_tuning", "prefix_tuning", "prompt_tuning")

_TOKENS: Final = 20  # within what Lester et al. 2021 (figure 3) find enough


def is_prompt(config: PeftConfig) -> bool:
    """Returns whether a configuration is one of a prompt method."""
    return isinstance(config, PromptLearningConfig)


def is_prefix(config: PeftConfig) -> bool:
    """Returns whether the vectors stand before keys and values, not before the inputs."""
    return method_of(config) == "prefix_tuning"


def tokens_of(config: PeftConfig) -> int:
    """Returns how many virtual tokens there are."""
    count: int = config.num_virtual_tokens  # type: ignore[attr-defined]
    return count


def completed(config: PeftConfig, model: nn.Module) -> PeftConfig:
    """Returns ``config`` with the sizes of a model, in place.

    Args:
        config: of a prompt method; sizes that are given must be the model's own.
        model: the transformers model it will be attached to.

    Raises:
        SpecError: if the number of virtual tokens is none, or a size is not the model's.
        UnsupportedError: if the method has no place in the model.
    """
    backbone = backbone_of(model)
    refuse_unfit(backbone, prefix=is_prefix(config))
    asked: Any = config
    if asked.num_virtual_tokens is None:
        asked.num_virtual_tokens = _TOKENS
    count = asked.num_virtual_tokens
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise SpecError(f"num_virtual_tokens is {count!r}; give a whole number, 1 or more")
    for name, own in _sizes(backbone, prefix=is_prefix(config)).items():
        if getattr(asked, name) not in (None, own):
            raise SpecError(
                f"{name} is {getattr(asked, name)!r}, {type(model).__name__} has {own}; leave it out, or "
                "take the model the prompt was made for"
            )
        setattr(asked, name, own)
    if hasattr(asked, "encoder_hidden_size") and asked.encoder_hidden_size is None:
        asked.encoder_hidden_size = asked.token_dim
    # What PEFT's own forward does with a folder; a classification task would ask for the head in it.
    generates = hasattr(model, "prepare_inputs_for_generation") and is_causal(backbone)
    asked.task_type = "CAUSAL_LM" if generates else "FEATURE_EXTRACTION"
    return config


def _sizes(backbone: nn.Module, *, prefix: bool) -> dict[str, int]:
    """Returns PEFT's names for the sizes of a model, those of its keys and values for a prefix."""
    told: Any = backbone.config
    heads: int = told.num_attention_heads
    layers: int = told.num_hidden_layers
    width = input_width(backbone)
    if prefix:
        size = getattr(told, "head_dim", None) or told.hidden_size // heads
        heads = getattr(told, "num_key_value_heads", None) or heads
        width = heads * size
    sizes = {"num_layers": layers, "num_attention_heads": heads, "token_dim": width}
    return sizes | {"num_transformer_submodules": 1}
