"""Versions nobody can lose: a SQLite catalogue beside content-addressed safetensors files.

Only this room imports ``sqlite_utils`` (for schema migrations), and importing it loads no torch.
"""

from __future__ import annotations

from contpeft.store.aliases import AliasChange
from contpeft.store.backup import Backup
from contpeft.store.compression import Compressed, Compression, Stored
from contpeft.store.diff import Change, Difference, ScoreChange, TensorChange
from contpeft.store.events import Event
from contpeft.store.examine import AdapterReport, Family, Inspection, ModuleReport, TensorNorm
from contpeft.store.exchange import Exported, Profile
from contpeft.store.find import Metric, Sort
from contpeft.store.fsck import Checked, Finding
from contpeft.store.fusion import Candidate, Plan, Request, Verdict
from contpeft.store.gc import Collected
from contpeft.store.lineage import Branch
from contpeft.store.prune import Policy, Pruned
from contpeft.store.query import Answer
from contpeft.store.removal import Removed
from contpeft.store.runs import Run, Status
from contpeft.store.steps import Step
from contpeft.store.store import AdapterStore
from contpeft.store.transfer import Arrived, Bundled, Conflict, Pushed, Remote
from contpeft.store.usage import LineUsage, Usage

__all__ = [
    "AdapterReport",
    "AdapterStore",
    "AliasChange",
    "Answer",
    "Arrived",
    "Backup",
    "Branch",
    "Bundled",
    "Candidate",
    "Change",
    "Checked",
    "Collected",
    "Compressed",
    "Compression",
    "Conflict",
    "Difference",
    "Event",
    "Exported",
    "Family",
    "Finding",
    "Inspection",
    "LineUsage",
    "Metric",
    "ModuleReport",
    "Plan",
    "Policy",
    "Profile",
    "Pruned",
    "Pushed",
    "Remote",
    "Removed",
    "Request",
    "Run",
    "ScoreChange",
    "Sort",
    "Status",
    "Step",
    "Stored",
    "TensorChange",
    "TensorNorm",
    "Usage",
    "Verdict",
]
