"""Names of adapter methods that are not PEFT's own, and of what is put together from several."""

from __future__ import annotations

from typing import Final

__all__ = ["ADDED_METHODS", "FUSION", "GATED", "UNION"]

ADDED_METHODS: Final = frozenset({"adamix", "bitfit", "compacter", "houlsby", "parallel", "pfeiffer"})
"""What :mod:`contpeft.adapters` registers with PEFT; a program that loads such a folder imports it first."""

FUSION: Final = "fusion"
"""The kind of versions that are attention over others; ``over`` in their configuration are those."""

GATED: Final = "gated"
"""The kind of versions that are LoRA adapters with a gate; ``lora`` in their configuration is the adapter."""

UNION: Final = "union"
"""The kind of versions whose parts are attached together; ``parts`` in their configuration are those."""
