"""In which compositions a version can stand, by its method."""

from __future__ import annotations

from typing import Final

from contpeft.adapters.fusion.bottleneck import BOTTLENECKS
from contpeft.adapters.presets import PRESETS
from contpeft.adapters.prompts import PROMPT_METHODS
from contpeft.adapters.variants import base_method, is_plain

__all__ = ["LOWEST", "composes"]

LOWEST: Final = frozenset(
    {"deft", "frod", "glora", "hra", "ln_tuning", "shira", "supertuning", "trainable_tokens"}
)
"""Methods whose layers compute with the base's own weights, not with what stands in the place of these."""


def composes(method: str) -> tuple[str, ...]:
    """Returns the compositions that versions of a method can be in, beside those that take any.

    Any version can answer alone, be a choice of a route or in parallel, and be the lowest of a stack. The
    rest: ``"stack"`` (over others), ``"sum"``, ``"fuse"``, ``"rows"`` (of one batch) and ``"drop"`` (layers).
    """
    plain_lora = base_method(method) == "lora" and is_plain(method)
    bottleneck = method in BOTTLENECKS
    inputs = method in PROMPT_METHODS or method in PRESETS
    told = {
        "stack": method not in LOWEST and method != "unipelt",
        "sum": plain_lora or bottleneck,
        "fuse": plain_lora or bottleneck,
        "rows": plain_lora,
        "drop": not inputs,
    }
    return tuple(name for name, can in told.items() if can)
