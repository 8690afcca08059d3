"""Versions out to the folders of PEFT and of serving engines, and in from them."""

from __future__ import annotations

from contpeft.store.exchange.exchange import Exchange
from contpeft.store.exchange.exporting import Exported, Profile

__all__ = ["Exchange", "Exported", "Profile"]
