"""What the configuration of a LoRA adapter gives to each module: rank, alpha, scaling.

The rules are those of PEFT's ``adapter_config.json``, so that whoever reads a stored adapter without a
model reads it as PEFT would.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["ROOT", "lora_alpha", "lora_rank", "lora_scaling"]

# What PEFT puts before the path of a module in the names of its tensors.
ROOT: Final = "base_model.model."


def lora_rank(config: Mapping[str, Any], module: str) -> Any:
    """Returns the rank a LoRA configuration gives to the module of that dotted path."""
    return _by_pattern(config.get("rank_pattern"), module, config.get("r"))


def lora_alpha(config: Mapping[str, Any], module: str) -> Any:
    """Returns the alpha a LoRA configuration gives to the module of that dotted path."""
    return _by_pattern(config.get("alpha_pattern"), module, config.get("lora_alpha"))


def lora_scaling(config: Mapping[str, Any], module: str) -> float:
    """Returns what the product of a module's factors is multiplied by.

    ``alpha / r`` (Hu et al., 2022, section 4.1), or ``alpha / sqrt(r)`` where it is rank-stabilised
    (Kalajdzievski, 2023).
    """
    rank, alpha = lora_rank(config, module), lora_alpha(config, module)
    return float(alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def _by_pattern(pattern: Mapping[str, Any] | None, module: str, usual: Any) -> Any:
    """Returns the value of the first key that is a regular expression for the end of the path."""
    values = pattern or {}
    found = next((key for key in values if re.match(rf"(.*\.)?({key})$", module)), None)
    return usual if found is None else values[found]
