"""Folders of older releases of AdapterHub's libraries, brought to the form of today; only when asked for.

What they mean differs from what they say, so that a folder of before is never read by the rules of today.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from torch import Tensor

from contpeft.adapters.adapterhub.told import VERSION
from contpeft.errors import SpecError, UnsupportedError

__all__ = ["renewed", "renewed_names"]

_MODULES: Final[Mapping[str, str]] = {
    "attention_text_task_adapters": "adapters",
    "attention_text_lang_adapters": "adapters",
    "layer_text_task_adapters": "adapters",
    "layer_text_lang_adapters": "adapters",
    "invertible_lang_adapters": "invertible_adapters",
}
_ACTIVATIONS: Final[Mapping[str, str]] = {"gelu": "gelu_new", "gelu_orig": "gelu"}
# From here on a LoRA computes with its alpha.
_ALPHA_COUNTS: Final = (1, 1, 0)


def renewed(value: Mapping[str, Any], what: str, *, allowed: bool) -> dict[str, Any]:
    """Returns a configuration file as the library would write it today.

    Args:
        value: its JSON.
        what: names the file in errors.
        allowed: whether the caller asked for files of before.

    Raises:
        UnsupportedError: if it is of before and that was not asked for.
        SpecError: if its version is none.
    """
    config = dict(value["config"]) if isinstance(value.get("config"), Mapping) else {}
    signs = _signs(value, config, what)
    if not signs:
        return dict(value)
    if not allowed:
        raise UnsupportedError(
            f"{what} is of an older release, by whose rules it means something else: {signs[0]}; ask for its "
            "rules (--legacy)"
        )
    if "version" not in value and config.get("non_linearity") in _ACTIVATIONS:
        config["non_linearity"] = _ACTIVATIONS[config["non_linearity"]]
    if "invertible_adapter" in config:
        nested = config.pop("invertible_adapter")
        config["inv_adapter"] = nested.get("block_type", "") if isinstance(nested, Mapping) else nested
    if _without_alpha(value, config, what):
        config["alpha"] = config.get("r")
    names = {"adapter_names": str(value.get("name")).split(",")} if _is_fusion(value, config) else {}
    return {**names, **value, "config": config, "version": VERSION}


def renewed_names(tensors: Mapping[str, Tensor], what: str, *, allowed: bool) -> dict[str, Tensor]:
    """Returns tensors under the names of today.

    Args:
        tensors: those of a file.
        what: names the file in errors.
        allowed: whether the caller asked for files of before.

    Raises:
        UnsupportedError: if there are names of before and that was not asked for.
        SpecError: if two names become one.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in sorted(tensors.items()):
        new = ".".join(_MODULES.get(part, part) for part in name.split("."))
        if new != name and not allowed:
            raise UnsupportedError(
                f"{what} is of an older release: tensor {name!r} would be {new!r} today; ask for its rules "
                "(--legacy)"
            )
        if new in found:
            raise SpecError(f"{what} has two tensors that are {new!r} today")
        found[new] = tensor
    return found


def _signs(value: Mapping[str, Any], config: Mapping[str, Any], what: str) -> list[str]:
    """Returns why a file is of before, in words."""
    found = []
    if "version" not in value:
        found.append("it has no version")
    if "invertible_adapter" in config:
        found.append("it has a nested invertible_adapter")
    if _is_fusion(value, config):
        found.append("it has no adapter_names")
    if _without_alpha(value, config, what):
        found.append(f"{value['version']} computes a LoRA without its alpha")
    return found


def _without_alpha(value: Mapping[str, Any], config: Mapping[str, Any], what: str) -> bool:
    numbers = _numbers(value.get("version"), what)
    differs = config.get("architecture") == "lora" and config.get("alpha") != config.get("r")
    return differs and numbers is not None and numbers < _ALPHA_COUNTS


def _is_fusion(value: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    return "value_before_softmax" in config and "adapter_names" not in value


def _numbers(version: object, what: str) -> tuple[int, ...] | None:
    """Returns the numbers of a release of ``adapters``, or None for another library's."""
    if not isinstance(version, str) or not version.startswith("adapters."):
        return None
    match = re.match(r"adapters\.(\d{1,4})\.(\d{1,4})\.(\d{1,4})", version)
    if match is None:
        raise SpecError(f"{what} has version {version!r}, which is none")
    return tuple(map(int, match.groups()))
