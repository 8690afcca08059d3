"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

__all__ = ["DEFAULT_STORE", "AsJson", "StorePath"]

DEFAULT_STORE: Final = Path("adapters")

StorePath = Annotated[Path, typer.Option("--store", envvar="CONTPEFT_STORE", help="Folder of the store.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
