"""Keys and values of each row's own, before those of its tokens, in chosen layers of an encoder.

Attention modules of transformers look their function up by a name in their configuration. A module that is to
take a prefix gets a configuration of its own, which names a function that puts the prefix in and then does
what the module did. Tokens keep their positions and are all the model answers for: a prefix has no position,
no output and no query, so that nothing that pools over tokens sees it.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from contpeft.errors import UnsupportedError

__all__ = ["Slot", "attention_modules"]

_NAME: Final = "contpeft_prefix"
_MARKS: Final = ("config", "is_causal", "scaling")  # of modules that look their function up
_KNOWN: Final = ("eager", "sdpa")


@dataclass
class Slot:
    """The place of a prefix in one attention module.

    Attributes:
        module: the attention module.
        pair: keys and values ``(B, heads, P, head size)`` of the call that is running; None for no prefix.
        read: whether the module has asked for them since they were put in.
    """

    module: nn.Module
    pair: tuple[Tensor, Tensor] | None = None
    read: bool = False

    def open(self) -> None:
        """Lets the module ask here.

        Raises:
            UnsupportedError: if its attention masks in a way that is not known here.
        """
        self._config: Any = cast(Any, self.module).config
        name = self._config._attn_implementation
        if name not in _KNOWN:
            raise UnsupportedError(
                f"attention of kind {name!r} takes no prefix of a pool; load the model with "
                "attn_implementation='sdpa'"
            )
        usual = sys.modules[type(self.module).__module__]
        self.attend: Callable[..., Any] = (
            cast(Any, usual).eager_attention_forward if name == "eager" else ALL_ATTENTION_FUNCTIONS[name]
        )
        changed = copy.deepcopy(self._config)
        changed._attn_implementation = _NAME
        self.module.config = changed
        cast(Any, self.module).prefix_slot = self

    def close(self) -> None:
        """Lets the module do what it did."""
        self.module.config = self._config
        del self.module.prefix_slot
        self.clear()

    def put(self, keys: Tensor, values: Tensor) -> None:
        """Sets the prefix for the call to come."""
        self.pair, self.read = (keys, values), False

    def clear(self) -> None:
        """Takes the prefix out."""
        self.pair = None


def attention_modules(backbone: nn.Module) -> list[nn.Module]:
    """Returns the self-attention module of each layer.

    Raises:
        UnsupportedError: if there is not one in each that takes a prefix.
    """
    config = cast(Any, backbone).config
    found = [each for each in backbone.modules() if all(hasattr(each, mark) for mark in _MARKS)]
    if len(found) != config.num_hidden_layers:
        raise UnsupportedError(
            f"the attention of a {config.model_type} model takes no prefix; use a method that is a set of "
            "layers, such as 'lora'"
        )
    return found


def longer(mask: Tensor | None, count: int) -> Tensor | None:
    """Returns a mask ``(B, 1, T, T)`` with ``count`` more keys at the front that every token sees.

    Args:
        mask: true where seen, or what is added to scores; None where all is seen, and stays None.
        count: how many.
    """
    if mask is None:
        return None
    seen = mask.new_full((*mask.shape[:-1], count), mask.dtype == torch.bool)
    return torch.cat([seen, mask], dim=-1)


def _prefixed(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **told: Any
) -> Any:
    slot: Slot = cast(Any, module).prefix_slot
    if slot.pair is not None:
        keys, values = slot.pair
        slot.read = True
        key = torch.cat([keys.to(key), key], dim=2)
        value = torch.cat([values.to(value), value], dim=2)
        attention_mask = longer(attention_mask, keys.shape[2])
        if told.get("position_bias") is not None:
            told["position_bias"] = F.pad(told["position_bias"], (keys.shape[2], 0))
    return slot.attend(module, query, key, value, attention_mask, **told)


AttentionInterface.register(_NAME, _prefixed)
