"""The command line: thin commands over the rooms below, heavy imports inside them."""

from __future__ import annotations

from contpeft.cli.main import app, main

__all__ = ["app", "main"]
