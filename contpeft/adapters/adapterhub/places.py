"""Where a stored adapter sits: its modules by the layers that have it, in the words of its configuration."""

from __future__ import annotations

import re
from collections.abc import Collection
from types import SimpleNamespace
from typing import Any

from contpeft.adapters.adapterhub.config import Meaning
from contpeft.adapters.adapterhub.names import FAMILIES, LORA_PLACES, ours
from contpeft.adapters.methods import config_from_json, config_to_json
from contpeft.adapters.tuners.sites import site_pattern
from contpeft.errors import UnsupportedError
from contpeft.spec import AdapterState
from contpeft.spec.lora import ROOT

__all__ = ["config_here", "in_all_layers", "module_of", "module_prefix"]


def config_here(meant: Meaning, model_type: str, prefix: str, layers: Collection[int]) -> dict[str, Any]:
    """Returns the full configuration of a method, as a version keeps it.

    Args:
        meant: what it is made of.
        model_type: kind of the base.
        prefix: what the names of the base's modules begin with.
        layers: numbers of those that have the adapter.

    Raises:
        UnsupportedError: if the method refuses a value.
    """
    told = {"peft_type": meant.method.upper(), **meant.options}
    try:
        config = config_from_json(told)
    except ValueError as error:
        raise UnsupportedError(f"the configuration is not taken in: {error}") from error
    options: Any = config
    if meant.leave_out or (meant.method == "lora" and not set(meant.places) <= set(LORA_PLACES[:3])):
        names = [
            ours(meant.method, prefix, layer, place, _first(meant))
            for layer in layers
            for place in meant.places
        ]
        options.target_modules = sorted({module_of(name) for name in names})
    elif meant.method == "lora":
        options.target_modules = sorted(place.rpartition(".")[2] for place in meant.places)
    else:
        model = SimpleNamespace(config=SimpleNamespace(model_type=model_type))
        options.target_modules = site_pattern(meant.method, options.placement, model)
    return config_to_json(config)


def in_all_layers(state: AdapterState, model_type: str) -> bool:
    """Returns whether the targets are such that every layer has them."""
    targets = state.config.get("target_modules")
    if state.kind == "lora":
        narrowed = any(state.config.get(key) for key in ("layers_to_transform", "exclude_modules"))
        return isinstance(targets, list) and not narrowed and all("." not in each for each in targets)
    options: Any = config_from_json(state.config)
    model = SimpleNamespace(config=SimpleNamespace(model_type=model_type))
    return bool(targets == site_pattern(state.kind, options.placement, model))


def module_prefix(names: Collection[str]) -> str:
    """Returns what the names of the base's modules begin with in a stored version.

    Raises:
        UnsupportedError: if they are not names that AdapterHub has.
    """
    known = {"", *(family.prefix for family in FAMILIES.values())}
    for name in names:
        match = re.match(rf"{re.escape(ROOT)}(?P<prefix>.*?)encoder\.layer\.", name)
        if match is None or match["prefix"] not in known:
            raise UnsupportedError(
                f"AdapterHub's folders are known here for models of type {', '.join(FAMILIES)}; "
                f"{name!r} is of another"
            )
        return match["prefix"]
    raise UnsupportedError("the version holds no adapter; there is nothing to export")


def module_of(name: str) -> str:
    """Returns the module that a tensor of a stored version is about."""
    return re.split(r"\.(?:bottleneck|lora)_", name.removeprefix(ROOT))[0]


def _first(meant: Meaning) -> str:
    return "lora_A" if meant.method == "lora" else "adapter_up.bias"
