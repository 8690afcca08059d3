"""A prompt in a folder of PEFT's: which tensor is its own, and how the head's are named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from peft import PeftConfig
from torch import Tensor

from contpeft.adapters.prompts.encoders import stored_shape
from contpeft.errors import SpecError
from contpeft.spec.lora import ROOT

__all__ = ["STORED", "checked_vectors", "head_names"]

STORED: Final = "prompt_embeddings"

_SIZES: Final = ("num_virtual_tokens", "token_dim", "num_layers", "num_attention_heads")
_ROOT: Final = "base_model."


def checked_vectors(config: PeftConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensor of a prompt under its name.

    Raises:
        SpecError: if it is missing, or its shape or the configuration's sizes are not what they should be.
    """
    told: dict[str, Any] = vars(config)
    for name in _SIZES:
        if type(told.get(name)) is not int or told[name] < 1:
            raise SpecError(f"adapter_config.json gives {name} {told.get(name)!r}, which is no size")
    if STORED not in tensors:
        raise SpecError(f"there is no tensor {STORED!r} among the {len(tensors)} tensors")
    shape, given = stored_shape(config), tuple(tensors[STORED].shape)
    if shape != given:
        raise SpecError(f"{STORED} has shape {given}, adapter_config.json gives it {shape}")
    return {STORED: tensors[STORED]}


def head_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns a head's tensors as PEFT names them for other methods; for prompts it leaves a part out."""
    return {
        ROOT + name.removeprefix(_ROOT)
        if name.startswith(_ROOT) and not name.startswith(ROOT)
        else name: each
        for name, each in tensors.items()
    }
