"""Versions that travel between stores: in one file, or through a shared folder.

``packing`` turns rows into records, ``bundle`` and ``remote`` carry them, ``arrival`` makes the union.
Importing this loads neither pydantic nor fsspec.
"""

from __future__ import annotations

from contpeft.store.transfer.results import Arrived, Bundled, Conflict, Pushed, Remote
from contpeft.store.transfer.transfer import Transfer

__all__ = ["Arrived", "Bundled", "Conflict", "Pushed", "Remote", "Transfer"]
