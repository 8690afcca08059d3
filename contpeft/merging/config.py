"""The configuration of a merged LoRA adapter: its own ranks, a scaling of exactly 1."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from contpeft.errors import UnsupportedError

__all__ = ["merged_config"]

# Which modules an adapter has, rank and scaling: the merged one has its own.
_TARGETS: Final = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")
_FOLDED: Final[dict[str, Any]] = {"use_rslora": False, "init_lora_weights": True}
_SIZES: Final = ("r", "lora_alpha", "rank_pattern", "alpha_pattern")
# Of training alone.
_TRAINING: Final = (
    "lora_dropout",
    "loftq_config",
    "eva_config",
    "corda_config",
    "lora_ga_config",
    "runtime_config",
)


def merged_config(
    configs: Sequence[Mapping[str, Any]], labels: Sequence[str], ranks: Mapping[str, int], modules: set[str]
) -> dict[str, Any]:
    """Returns the configuration of adapters merged.

    Args:
        configs: of the adapters; the first gives what all have in common.
        labels: what the adapters are called, for messages.
        ranks: of each module of the result.
        modules: that any of the adapters has.

    Raises:
        UnsupportedError: if an option that changes what an adapter computes differs between them.
    """
    first = configs[0]
    own = {*_TARGETS, *_FOLDED, *_SIZES, *_TRAINING}
    for config, label in zip(configs[1:], labels[1:], strict=True):
        for key in sorted({*first, *config} - own):
            if (first.get(key) or None) != (config.get(key) or None):
                raise UnsupportedError(
                    f"{labels[0]} has {key}={first.get(key)!r} and {label} has {key}={config.get(key)!r}; "
                    "they cannot be merged"
                )
    told = {**first, **{key: value for key, value in _FOLDED.items() if key in first}}
    return told | _dropout(configs) | _sizes(ranks) | _targets(configs, ranks, modules)


def _dropout(configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    values = {config.get("lora_dropout", 0.0) for config in configs}
    return {"lora_dropout": values.pop() if len(values) == 1 else 0.0}


def _sizes(ranks: Mapping[str, int]) -> dict[str, Any]:
    """Returns rank and alpha, equal in every module, with a pattern for modules of other ranks."""
    (usual, _), *_ = Counter(ranks.values()).most_common(1)
    others = {_exactly(module, ranks): rank for module, rank in ranks.items() if rank != usual}
    return {"r": usual, "lora_alpha": usual, "rank_pattern": others, "alpha_pattern": dict(others)}


def _exactly(module: str, modules: Mapping[str, int]) -> str:
    """Returns a key that means this module alone: a path may be the end of another one."""
    return f"^{module}" if any(other.endswith(f".{module}") for other in modules) else module


def _targets(
    configs: Sequence[Mapping[str, Any]], ranks: Mapping[str, int], modules: set[str]
) -> dict[str, Any]:
    """Returns which modules the result has: as the adapters say it, if they agree, else one by one."""
    said = {json.dumps([config.get(key) for key in _TARGETS]) for config in configs}
    if len(said) == 1 and set(ranks) == modules:
        return {}
    nowhere = {key: None for key in _TARGETS if key in configs[0]}
    return {**nowhere, "target_modules": sorted(ranks)}
