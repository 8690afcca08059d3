"""The values every room passes to the next: frozen, JSON in and out, no torch.

They carry no behaviour beyond checking themselves, printing themselves and naming themselves by a
digest.
"""

from contpeft.spec.adapter import AdapterSpec, AdapterState, HeadSpec
from contpeft.spec.composition import (
    Arrow,
    Base,
    Choices,
    Composition,
    Concat,
    Drop,
    Fuse,
    Gated,
    Layers,
    Mix,
    Parallel,
    Part,
    Route,
    Single,
    Stack,
    Sum,
    Surest,
    Tokens,
    View,
    average,
    composition_from_json,
    features_from_json,
)
from contpeft.spec.refs import AdapterRef, check_name
from contpeft.spec.task import PROTOCOLS, SCENARIOS, TASK_HITS, Protocol, Scenario, Score, Task
from contpeft.spec.version import BaseModel, Parent, Version

__all__ = [
    "PROTOCOLS",
    "SCENARIOS",
    "TASK_HITS",
    "AdapterRef",
    "AdapterSpec",
    "AdapterState",
    "Arrow",
    "Base",
    "BaseModel",
    "Choices",
    "Composition",
    "Concat",
    "Drop",
    "Fuse",
    "Gated",
    "HeadSpec",
    "Layers",
    "Mix",
    "Parallel",
    "Parent",
    "Part",
    "Protocol",
    "Route",
    "Scenario",
    "Score",
    "Single",
    "Stack",
    "Sum",
    "Surest",
    "Task",
    "Tokens",
    "Version",
    "View",
    "average",
    "check_name",
    "composition_from_json",
    "features_from_json",
]
