"""Stored adapters as AdapterHub's: what it has a place for, bit for bit."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from torch import Tensor

from contpeft.adapters.adapterhub.config import bottleneck_config, lora_config, meaning
from contpeft.adapters.adapterhub.names import FAMILIES, Sorted, kind_of, sort_ours, theirs
from contpeft.adapters.adapterhub.places import config_here, in_all_layers, module_of, module_prefix
from contpeft.adapters.adapterhub.told import identified
from contpeft.errors import SpecError, UnsupportedError, UsageError
from contpeft.spec import AdapterState
from contpeft.spec.lora import lora_alpha, lora_rank

__all__ = ["METHODS", "Target", "adapter_to_hub", "model_type_of"]

METHODS: Final = ("houlsby", "lora", "parallel", "pfeiffer")
"""The methods that AdapterHub has, too."""


@dataclass(frozen=True)
class Target:
    """What is known of the base an exported folder is for.

    Attributes:
        model_name: what it is called.
        model_type: its kind; None when the tensors' names must tell.
        layers: how many it has; None when unknown.
    """

    model_name: str
    model_type: str | None = None
    layers: int | None = None


def adapter_to_hub(
    state: AdapterState, name: str, target: Target, kept: Mapping[str, Any] | None, kept_prefix: str | None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Returns the content of the configuration file and the tensors of a stored adapter.

    Args:
        state: the adapter.
        name: what it is called there.
        target: the base.
        kept: the configuration file it once came from, if it did; what still holds of it is kept.
        kept_prefix: what names of tensors began with there; the family's prefix when None.

    Raises:
        UnsupportedError: naming what AdapterHub has no place for.
        UsageError: if the kind of the base or the number of its layers is needed.
    """
    if state.kind not in METHODS:
        raise UnsupportedError(
            f"method {state.kind!r} has no folder of AdapterHub's; it has: {', '.join(METHODS)}"
        )
    prefix = module_prefix(state.adapter_tensors())
    found = sort_ours(state.adapter_tensors(), state.kind, prefix)
    model_type = model_type_of(target, kept, prefix)
    config = _still_meant(state, kept, prefix, sorted(found)) or _config_there(
        state, found, target, model_type
    )
    before = FAMILIES[model_type].prefix if kept_prefix is None else kept_prefix
    named = {
        theirs(before, layer, place, kind_of(state.kind), name, part): tensor
        for layer, parts in found.items()
        for (place, part), tensor in parts.items()
    }
    return identified(name, config, model_type, _width(found), target.model_name, kept), named


def model_type_of(target: Target, kept: Mapping[str, Any] | None, prefix: str) -> str:
    """Returns the kind of the base.

    Args:
        target: the base, as far as it is known.
        kept: the configuration file an adapter once came from, if it did.
        prefix: what the names of the base's modules begin with.

    Raises:
        UsageError: if nothing tells it.
        UnsupportedError: if AdapterHub's folders for it are not known here.
    """
    told = (
        target.model_type
        or (kept or {}).get("model_type")
        or {"bert.": "bert", "electra.": "electra"}.get(prefix)
    )
    if told is None:
        raise UsageError(
            "AdapterHub's folders say of what kind the base is, which nothing here does; give it (--base)"
        )
    if told not in FAMILIES:
        raise UnsupportedError(
            f"AdapterHub's folders are known here for models of type {', '.join(FAMILIES)}; this is {told!r}"
        )
    return str(told)


def _still_meant(
    state: AdapterState, kept: Mapping[str, Any] | None, prefix: str, layers: Collection[int]
) -> dict[str, Any] | None:
    """Returns the configuration that the adapter came with, if it is still what it says."""
    if kept is None:
        return None
    meant = meaning(kept["config"])
    same = (
        meant.method == state.kind and config_here(meant, kept["model_type"], prefix, layers) == state.config
    )
    return dict(kept["config"]) if same else None


def _config_there(state: AdapterState, found: Sorted, target: Target, model_type: str) -> dict[str, Any]:
    places = {place for place, _ in next(iter(found.values()))}
    for layer, parts in found.items():
        if {place for place, _ in parts} != places:
            raise UnsupportedError(
                f"layer {layer} has other modules than the first; AdapterHub has the same in all"
            )
    left = _left_out(state, found, target, model_type)
    if state.kind != "lora":
        return bottleneck_config(state.kind, state.config, places, left)
    modules = {module_of(name) for name in state.adapter_tensors()}
    scales = {(lora_rank(state.config, module), lora_alpha(state.config, module)) for module in modules}
    if len(scales) > 1:
        raise UnsupportedError(
            "modules differ in rank or alpha (rank_pattern, alpha_pattern); AdapterHub has one"
        )
    return lora_config(state.config, *scales.pop(), places, left)


def _left_out(state: AdapterState, found: Sorted, target: Target, model_type: str) -> set[int]:
    if target.layers is not None:
        return set(range(target.layers)) - set(found)
    if not in_all_layers(state, model_type):
        raise UsageError(
            "the adapter may leave out layers, and nothing here says how many there are; give the base "
            "(--base)"
        )
    return set(range(max(found))) - set(found)


def _width(found: Sorted) -> int:
    for parts in found.values():
        for (place, part), tensor in parts.items():
            if part == "adapter_up.bias" or (part == "lora_B" and place != "intermediate.dense"):
                return int(tensor.shape[0])
            if part == "lora_A" and place == "intermediate.dense":
                return int(tensor.shape[1])
    raise SpecError("no tensor tells the width of the base")
