"""Variants of LoRA: LoRA with options of its own, another start, or another way to train it.

What is stored of each is a plain LoRA adapter, of kind ``lora``, so all that merges, serves and exports LoRA
works for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from contpeft.errors import SpecError

__all__ = ["VARIANTS", "Variant", "base_method", "double_rank", "is_plain", "own_options", "with_preset"]


@dataclass(frozen=True)
class Variant:
    """What makes a variant of LoRA.

    Attributes:
        preset: options of LoRA that it fixes.
        own: its own options, with their usual values.
        doubled: whether a frozen half as large as what is trained lies beside it.
        plain: whether it adds a low-rank product and nothing else, as merging and serving engines need it.
    """

    preset: Mapping[str, Any] = field(default_factory=dict)
    own: Mapping[str, Any] = field(default_factory=dict)
    doubled: bool = False
    plain: bool = True


_NO_OTHER_START: Final = {"init_lora_weights": True}

VARIANTS: Final[Mapping[str, Variant]] = {
    "dora": Variant({"use_dora": True}, plain=False),
    "lora+": Variant(own={"ratio": 16.0}),
    "lora-fa": Variant(),
    "olora": Variant(_NO_OTHER_START, doubled=True),
    "pissa": Variant(_NO_OTHER_START, {"niter": None}, doubled=True),
    "rslora": Variant({"use_rslora": True}),
}
"""The variants by name, as :class:`~contpeft.spec.AdapterSpec` is given it."""


def base_method(method: str) -> str:
    """Returns the method whose layers ``method`` is made of, and under which it is stored."""
    return "lora" if method in VARIANTS else method


def is_plain(method: str) -> bool:
    """Returns whether what merges and serves adapters of a method's kind takes adapters of this one."""
    return method not in VARIANTS or VARIANTS[method].plain


def own_options(method: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options that a variant has beside those of LoRA, with the values given for them.

    Raises:
        SpecError: if a value has no meaning.
    """
    own = dict(VARIANTS[method].own) if method in VARIANTS else {}
    own |= {name: value for name, value in given.items() if name in own}
    ratio, niter = own.get("ratio", 1.0), own.get("niter")
    if not _number(ratio) or not math.isfinite(ratio) or ratio <= 0:
        raise SpecError(f"ratio={ratio!r} of {method!r} is no factor of a learning rate; give one above 0")
    if niter is not None and not (isinstance(niter, int) and _number(niter) and niter >= 0):
        raise SpecError(
            f"niter={niter!r} of {method!r} is no number of iterations; leave it out for the exact start"
        )
    return own


def with_preset(method: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns options with those that a variant fixes.

    Raises:
        SpecError: if one of them was given another value.
    """
    preset = VARIANTS[method].preset if method in VARIANTS else {}
    for name, value in preset.items():
        if options.get(name, value) != value:
            raise SpecError(
                f"method {method!r} is lora with {name}={value!r}, not {options[name]!r}; leave that out"
            )
    return {**options, **preset}


def double_rank(config: Any) -> None:
    """Makes room for a frozen half in a LoRA configuration: twice the rank at the same scaling."""
    config.r *= 2
    config.rank_pattern = {module: 2 * rank for module, rank in config.rank_pattern.items()}
    factor = math.sqrt(2) if config.use_rslora else 2
    config.lora_alpha *= factor
    config.alpha_pattern = {module: factor * alpha for module, alpha in config.alpha_pattern.items()}


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
