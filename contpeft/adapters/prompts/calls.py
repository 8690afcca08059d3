"""What a model is called with and what it answers: virtual tokens put before the one, cut off the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache

from contpeft.adapters.prompts.backbone import parameter_names
from contpeft.errors import SpecError, UnsupportedError

__all__ = [
    "asks_for_tuple",
    "cut",
    "longer_mask",
    "named",
    "own_cache",
    "refuse_checkpointing",
    "refuse_crowded",
    "shape_of",
]


def named(backbone: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of a call by their names."""
    return {**dict(zip(parameter_names(backbone), args, strict=False)), **kwargs}


def shape_of(call: Mapping[str, Any]) -> tuple[int, int, torch.device]:
    """Returns the rows, the tokens in a row, and where they are.

    Raises:
        SpecError: if there are none.
    """
    ids, embeds = call.get("input_ids"), call.get("inputs_embeds")
    given = ids if ids is not None else embeds
    if given is None or (ids is not None and embeds is not None):
        raise SpecError("a model with a prompt is called with input_ids or with inputs_embeds, one of both")
    return given.shape[0], given.shape[1], given.device


def longer_mask(mask: Tensor | None, count: int) -> Tensor | None:
    """Returns a mask ``(B, T)`` with ``count`` more tokens at the front, all seen; None stays None.

    Raises:
        UnsupportedError: if the mask says which token sees which.
    """
    if mask is None:
        return None
    if mask.ndim != 2:
        raise UnsupportedError(
            f"an attention mask of shape {tuple(mask.shape)} has no place for virtual tokens; give one of "
            "shape (rows, tokens)"
        )
    return torch.cat([mask.new_ones(len(mask), count), mask], dim=1)


def own_cache(call: Mapping[str, Any]) -> DynamicCache | None:
    """Returns the cache of a call, or None.

    Raises:
        UnsupportedError: if it is of a kind that cannot grow by the virtual tokens.
    """
    cache = call.get("past_key_values")
    if cache is None or type(cache) is DynamicCache:
        return cache
    kind = type(cache).__name__ if isinstance(cache, Cache) else "old tuples"
    raise UnsupportedError(f"a cache of kind {kind} has no room for virtual tokens; use a DynamicCache")


def refuse_crowded(backbone: nn.Module, tokens: int, count: int) -> None:
    """Refuses inputs that with the virtual tokens are longer than the model's table of positions.

    Args:
        backbone: the model without its heads.
        tokens: how many tokens a row has.
        count: how many virtual ones.

    Raises:
        SpecError: with both numbers.
    """
    room = next((found for found in map(_positions, backbone.modules()) if found is not None), None)
    if room is not None and tokens + count > room:
        raise SpecError(
            f"{tokens} tokens and {count} virtual ones are more than the {room} positions of "
            f"{type(backbone).__name__}; shorten the inputs, or give fewer virtual tokens"
        )


def refuse_checkpointing(backbone: nn.Module, what: str) -> None:
    """Refuses a model in training that computes its layers again in the backward pass.

    Raises:
        UnsupportedError: naming what does not work with it.
    """
    modules = backbone.modules() if backbone.training else ()
    if any(getattr(module, "gradient_checkpointing", False) for module in modules):
        raise UnsupportedError(
            f"{what} does not work with gradient checkpointing, which computes layers again without what was "
            "put in before them; switch it off"
        )


def asks_for_tuple(backbone: Any, call: Mapping[str, Any]) -> bool:
    """Returns whether a call wants a tuple back."""
    asked = call.get("return_dict")
    return not (getattr(backbone.config, "return_dict", True) if asked is None else asked)


def cut(output: Any, kept: slice) -> None:
    """Leaves only the positions ``kept`` in what a model answers per token."""
    output["last_hidden_state"] = output.last_hidden_state[:, kept]
    if getattr(output, "hidden_states", None) is not None:
        output["hidden_states"] = tuple(each[:, kept] for each in output.hidden_states)
    if getattr(output, "attentions", None) is not None:
        # The tokens that look; what they look at may be virtual, as with a prefix.
        output["attentions"] = tuple(each[..., kept, :] for each in output.attentions)


def _positions(module: nn.Module) -> int | None:
    table = getattr(module, "position_embeddings", None) or getattr(module, "wpe", None)
    if not isinstance(table, nn.Embedding):
        return None
    return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
