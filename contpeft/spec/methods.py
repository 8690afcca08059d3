"""Names of adapter methods that are not PEFT's own."""

from __future__ import annotations

from typing import Final

__all__ = ["ADDED_METHODS"]

ADDED_METHODS: Final = frozenset({"adamix", "bitfit", "compacter", "houlsby", "parallel", "pfeiffer"})
"""What :mod:`contpeft.adapters` registers with PEFT; a program that loads such a folder imports it first."""
