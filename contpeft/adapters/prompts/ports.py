"""Where virtual tokens go into a model's call: before its tokens, or behind its patches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, cast
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import DynamicCache

from contpeft.adapters.prompts.calls import (
    asks_for_tuple,
    cut,
    longer_mask,
    named,
    own_cache,
    refuse_crowded,
    shape_of,
)
from contpeft.errors import SpecError

__all__ = ["PatchPort", "Port", "TokenPort"]


class Port(ABC):
    """Hooks on a model that give it virtual tokens and hide them from the caller.

    Args:
        backbone: the model without its heads.
        vectors: returns the trained vectors, ``(P, width)``.
        count: how many virtual tokens there are, ``P``.
    """

    def __init__(self, backbone: nn.Module, vectors: Callable[[], Tensor], count: int) -> None:
        self._backbone = backbone
        self._vectors = vectors
        self._count = count
        self._as_tuple = False

    def open(self) -> list[RemovableHandle]:
        """Returns the hooks, put in place."""
        before = self._backbone.register_forward_pre_hook(self._before, with_kwargs=True)
        after = self._backbone.register_forward_hook(self._after, with_kwargs=True)
        return [before, after]

    @abstractmethod
    def enter(self, call: dict[str, Any]) -> dict[str, Any]:
        """Returns a call with the virtual tokens in it."""

    @abstractmethod
    def leave(self, output: Any) -> None:
        """Takes them out of the output."""

    def _before(self, backbone: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call = named(backbone, args, kwargs)
        self._as_tuple = asks_for_tuple(backbone, call)
        return (), self.enter(call) | {"return_dict": True}

    def _after(self, backbone: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        self.leave(output)
        return output.to_tuple() if self._as_tuple else output


class TokenPort(Port):
    """Virtual tokens before the tokens.

    With a cache, those that stand in it already are not given again.
    """

    _cut = 0

    def __init__(self, backbone: nn.Module, vectors: Callable[[], Tensor], count: int) -> None:
        super().__init__(backbone, vectors, count)
        self._filled: WeakSet[DynamicCache] = WeakSet()

    def enter(self, call: dict[str, Any]) -> dict[str, Any]:
        """Returns a call with the virtual tokens before the others."""
        rows, tokens, _ = shape_of(call)
        call.pop("cache_position", None)  # counted anew by the model
        cache = own_cache(call)
        mask = longer_mask(call.get("attention_mask"), self._count)
        if cache is not None and cache.get_seq_length():
            self._cut = 0
            check_cache(cache, self._filled, tokens, mask)
            return moved(call, self._count) | {"attention_mask": mask}
        refuse_crowded(self._backbone, tokens, self._count)
        self._cut = self._count
        return self._prompted(call, rows) | {"attention_mask": mask}

    def leave(self, output: Any) -> None:
        """Takes the virtual tokens out of the output; a cache keeps them."""
        cache = getattr(output, "past_key_values", None)
        if isinstance(cache, DynamicCache):
            self._filled.add(cache)
        cut(output, slice(self._cut, None))

    def _prompted(self, call: dict[str, Any], rows: int) -> dict[str, Any]:
        embeds = call.get("inputs_embeds")
        if embeds is None:
            embeds = cast(Any, self._backbone).get_input_embeddings()(call["input_ids"])
        prompt = self._vectors().to(embeds).expand(rows, -1, -1)
        new: dict[str, Any] = {"input_ids": None, "inputs_embeds": torch.cat([prompt, embeds], dim=1)}
        types, positions = call.get("token_type_ids"), call.get("position_ids")
        if types is not None:
            new["token_type_ids"] = torch.cat([types.new_zeros(len(types), self._count), types], dim=1)
        if positions is not None:
            first = torch.arange(self._count, device=positions.device).expand(len(positions), -1)
            new["position_ids"] = torch.cat([first, positions + self._count], dim=1)
        return call | new


class PatchPort(Port):
    """Virtual patches behind the patches of a picture (Visual Prompt Tuning, Jia et al. 2022, section 3.2).

    Positions are added before, and attention has no order, so that it does not matter where they stand;
    behind, the class token stays the first.
    """

    def open(self) -> list[RemovableHandle]:
        """Returns the hooks, put in place."""
        embeddings = cast(nn.Module, self._backbone.embeddings)
        return [*super().open(), embeddings.register_forward_hook(self._appended)]

    def enter(self, call: dict[str, Any]) -> dict[str, Any]:
        """Returns the call as it is."""
        return call

    def leave(self, output: Any) -> None:
        """Takes the virtual patches out of the output."""
        cut(output, slice(None, -self._count))

    def _appended(self, embeddings: nn.Module, args: Any, output: Tensor) -> Tensor:
        prompt = self._vectors().to(output).expand(len(output), -1, -1)
        return torch.cat([output, prompt], dim=1)


def moved(call: dict[str, Any], count: int) -> dict[str, Any]:
    """Returns a call whose positions, where they are given, begin behind the virtual tokens."""
    positions = call.get("position_ids")
    return call if positions is None else call | {"position_ids": positions + count}


def check_cache(cache: DynamicCache, filled: WeakSet[DynamicCache], tokens: int, mask: Tensor | None) -> None:
    """Checks that a cache begins with the virtual tokens, and a mask with them is as long as it says.

    Args:
        cache: keys and values of earlier tokens.
        filled: the caches that begin with the virtual tokens.
        tokens: how many tokens a row of the call has.
        mask: ``(B, P + T)``, over the virtual tokens and all others so far; None where none is padding.

    Raises:
        SpecError: if not.
    """
    if cache not in filled:
        raise SpecError(
            "the key-value cache was not begun with the prompt that is attached now; begin with an empty one"
        )
    if mask is not None and mask.shape[1] != cache.get_seq_length() + tokens:
        raise SpecError(
            f"the attention mask is for {mask.shape[1]} positions with the virtual tokens, cache and inputs "
            f"have {cache.get_seq_length() + tokens}; give a mask over all tokens so far, and a whole cache"
        )
