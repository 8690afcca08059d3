"""Task streams, the sequence runner and its reports.

Names are loaded on first use: a report is written without importing Lightning.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from contpeft.experiments.config import Experiment, StreamConfig, load_experiment, parse_experiment
    from contpeft.experiments.modules import ImageClassifier, TextClassifier
    from contpeft.experiments.progress import Observer, Progress
    from contpeft.experiments.runner import run_experiment
    from contpeft.experiments.streams import split_by_class, split_by_column
    from contpeft.experiments.tasks import Examples, TaskData, TaskStream

_HOMES = {
    "Examples": "tasks",
    "Experiment": "config",
    "ImageClassifier": "modules",
    "Observer": "progress",
    "Progress": "progress",
    "StreamConfig": "config",
    "TaskData": "tasks",
    "TaskStream": "tasks",
    "TextClassifier": "modules",
    "load_experiment": "config",
    "parse_experiment": "config",
    "run_experiment": "runner",
    "split_by_class": "streams",
    "split_by_column": "streams",
}

__all__ = [
    "Examples",
    "Experiment",
    "ImageClassifier",
    "Observer",
    "Progress",
    "StreamConfig",
    "TaskData",
    "TaskStream",
    "TextClassifier",
    "load_experiment",
    "parse_experiment",
    "run_experiment",
    "split_by_class",
    "split_by_column",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'contpeft.experiments' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"contpeft.experiments.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
