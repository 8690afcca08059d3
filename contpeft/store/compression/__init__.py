"""Versions that share a basis: what many have in common is stored once; importing it loads no torch."""

from __future__ import annotations

from contpeft.store.compression.plan import Compressed, Compression, Stored

__all__ = ["Compressed", "Compression", "Stored"]
