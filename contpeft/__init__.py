"""contpeft: continual learning with adapters, plugged into PyTorch Lightning."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from contpeft.callbacks import AdapterCheckpoint, ContinualAdapter, ForgettingMonitor, FusionStage
    from contpeft.spec import (
        AdapterRef,
        AdapterSpec,
        Arrow,
        Base,
        Concat,
        Drop,
        Fuse,
        Gated,
        Layers,
        Mix,
        Parallel,
        Route,
        Single,
        Stack,
        Sum,
        Surest,
        Task,
        average,
    )
    from contpeft.store import AdapterStore

__version__ = "0.1.0"

_HOMES = {
    "AdapterCheckpoint": "contpeft.callbacks",
    "AdapterRef": "contpeft.spec",
    "AdapterSpec": "contpeft.spec",
    "AdapterStore": "contpeft.store",
    "Arrow": "contpeft.spec",
    "Base": "contpeft.spec",
    "Concat": "contpeft.spec",
    "ContinualAdapter": "contpeft.callbacks",
    "Drop": "contpeft.spec",
    "ForgettingMonitor": "contpeft.callbacks",
    "Fuse": "contpeft.spec",
    "FusionStage": "contpeft.callbacks",
    "Gated": "contpeft.spec",
    "Layers": "contpeft.spec",
    "Mix": "contpeft.spec",
    "Parallel": "contpeft.spec",
    "Route": "contpeft.spec",
    "Single": "contpeft.spec",
    "Stack": "contpeft.spec",
    "Sum": "contpeft.spec",
    "Surest": "contpeft.spec",
    "Task": "contpeft.spec",
    "average": "contpeft.spec",
}

__all__ = [
    "AdapterCheckpoint",
    "AdapterRef",
    "AdapterSpec",
    "AdapterStore",
    "Arrow",
    "Base",
    "Concat",
    "ContinualAdapter",
    "Drop",
    "ForgettingMonitor",
    "Fuse",
    "FusionStage",
    "Gated",
    "Layers",
    "Mix",
    "Parallel",
    "Route",
    "Single",
    "Stack",
    "Sum",
    "Surest",
    "Task",
    "__version__",
    "average",
]


def __getattr__(name: str) -> Any:
    # Loaded on first use (PEP 562): importing contpeft must not import torch.
    if name not in _HOMES:
        raise AttributeError(f"module 'contpeft' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
