"""The accuracy matrix and its numbers, paired comparisons, calibration: pure functions, no torch."""

from __future__ import annotations

from contpeft.metrics.definitions import DEFINITIONS, Definition
from contpeft.metrics.matrix import Matrix
from contpeft.metrics.numbers import (
    average_accuracy,
    average_incremental_accuracy,
    backward_transfer,
    forgetting,
    forward_transfer,
    learning_accuracy,
    task_forgetting,
)
from contpeft.metrics.summary import Spread, Summary, spread, summarise

__all__ = [
    "DEFINITIONS",
    "Definition",
    "Matrix",
    "Spread",
    "Summary",
    "average_accuracy",
    "average_incremental_accuracy",
    "backward_transfer",
    "forgetting",
    "forward_transfer",
    "learning_accuracy",
    "spread",
    "summarise",
    "task_forgetting",
]
