"""Versions nobody can lose: a SQLite catalogue beside content-addressed safetensors files.

Only this room imports ``sqlite_utils`` (for schema migrations), and importing it loads no torch.
"""

from __future__ import annotations

from contpeft.store.aliases import AliasChange
from contpeft.store.events import Event
from contpeft.store.fsck import Checked, Finding
from contpeft.store.gc import Collected
from contpeft.store.removal import Removed
from contpeft.store.runs import Run, Status
from contpeft.store.steps import Step
from contpeft.store.store import AdapterStore

__all__ = [
    "AdapterStore",
    "AliasChange",
    "Checked",
    "Collected",
    "Event",
    "Finding",
    "Removed",
    "Run",
    "Status",
    "Step",
]
