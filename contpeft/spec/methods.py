"""Names of adapter methods that are not PEFT's own, and of what is put together from several."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["ADDED_METHODS", "FUSION", "GATED", "GATE_RULES", "UNION"]

ADDED_METHODS: Final = frozenset({"adamix", "bitfit", "compacter", "houlsby", "parallel", "pfeiffer"})
"""What :mod:`contpeft.adapters` registers with PEFT; a program that loads such a folder imports it first."""

FUSION: Final = "fusion"
"""The kind of versions that are attention over others; ``over`` in their configuration are those."""

GATED: Final = "gated"
"""The kind of versions that are LoRA adapters with a gate; ``lora`` in their configuration is the adapter."""

GATE_RULES: Final[Mapping[str, str]] = {
    "independent": "|2 sigmoid(4 cos(q_i(x), k_i)) - 1|",
    "attention": "softmax_i(q(x) . k_i / sqrt(d))",
    "cosine": "cos(x, k_i)",
}
"""How gates weigh adapters, ``x`` being the mean embedding of a row's tokens."""

UNION: Final = "union"
"""The kind of versions whose parts are attached together; ``parts`` in their configuration are those."""
