"""Trained keys and values before those of the tokens, in every layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast
from weakref import WeakSet

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from contpeft.adapters.prompts.backbone import is_causal
from contpeft.adapters.prompts.calls import (
    longer_mask,
    own_cache,
    refuse_checkpointing,
    refuse_crowded,
    shape_of,
)
from contpeft.adapters.prompts.ports import Port, check_cache, moved
from contpeft.errors import UnsupportedError

__all__ = ["PrefixPort", "layer_pairs"]


class PrefixPort(Port):
    """A prefix (Li and Liang 2021, section 4.2), given as the cache of tokens that went before.

    Args:
        backbone: the model without its heads.
        vectors: returns the trained vectors, ``(P, layers * 2 * heads * head size)``.
        count: how many virtual tokens there are, ``P``.
        layers: how many layers the model has.
        heads: how many heads its keys and values have.
    """

    def __init__(
        self, backbone: nn.Module, vectors: Callable[[], Tensor], count: int, layers: int, heads: int
    ) -> None:
        super().__init__(backbone, vectors, count)
        self._layers, self._heads = layers, heads
        self._filled: WeakSet[DynamicCache] = WeakSet()
        self._cache: DynamicCache | None = None
        self._expected = 0
        self._returned = False

    @property
    def cache(self) -> DynamicCache | None:
        """The cache of the call that is running; None between calls."""
        return self._cache

    def enter(self, call: dict[str, Any]) -> dict[str, Any]:
        """Returns a call with the prefix in its cache."""
        refuse_checkpointing(self._backbone, "prefix_tuning")
        rows, tokens, device = shape_of(call)
        call.pop("cache_position", None)  # counted anew by the model
        mask, cache = longer_mask(call.get("attention_mask"), self._count), own_cache(call)
        self._returned = self._is_returned(call)
        if cache is not None and cache.get_seq_length():
            check_cache(cache, self._filled, tokens, mask)
        else:
            refuse_crowded(self._backbone, tokens, self._count)
            cache = self._begun(cache, rows)
            if mask is None:  # a model that sees both ways counts on it to know the length
                mask = torch.ones(rows, self._count + tokens, dtype=torch.long, device=device)
        self._cache, self._expected = cache, cache.get_seq_length() + tokens
        return moved(call, self._count) | {"attention_mask": mask, "past_key_values": cache}

    def leave(self, output: Any) -> None:
        """Takes the cache out of the output unless it was asked for.

        Raises:
            UnsupportedError: if the model has not used it.
        """
        cache, self._cache = self._cache, None
        if cache is None or cache.get_seq_length() != self._expected:
            family = cast(Any, self._backbone).config.model_type
            raise UnsupportedError(
                f"a {family} model takes a cache and does not compute with it, so that a prefix has no "
                "effect; use 'prompt_tuning', or a method that is a set of layers, such as 'lora'"
            )
        output["past_key_values"] = cache if self._returned else None

    def _begun(self, cache: DynamicCache | None, rows: int) -> DynamicCache:
        """Returns a cache, the given one if there is one, that begins with the prefix."""
        if cache is None:
            cache = DynamicCache(config=cast(Any, self._backbone).config)
        like = next(self._backbone.parameters())
        for layer, (keys, values) in enumerate(layer_pairs(self._vectors(), self._layers, self._heads)):
            cache.update(_spread(keys, rows, like), _spread(values, rows, like), layer)
        self._filled.add(cache)
        return cache

    def _is_returned(self, call: dict[str, Any]) -> bool:
        """Returns whether the model would give a cache back if it had no prefix."""
        asked = call.get("use_cache")
        use = getattr(self._backbone.config, "use_cache", False) if asked is None else asked
        return bool(use) and is_causal(self._backbone)


def layer_pairs(vectors: Tensor, layers: int, heads: int) -> list[tuple[Tensor, Tensor]]:
    """Returns keys and values of each layer, of shape ``(heads, P, head size)``, in PEFT's order.

    Args:
        vectors: of shape ``(P, layers * 2 * heads * head size)``.
        layers: how many layers there are.
        heads: how many heads keys and values have.
    """
    split = vectors.view(len(vectors), layers, 2, heads, -1).permute(1, 2, 3, 0, 4)
    return [(each[0], each[1]) for each in split]


def _spread(vectors: Tensor, rows: int, like: Tensor) -> Tensor:
    return vectors.to(like).expand(rows, -1, -1, -1)
