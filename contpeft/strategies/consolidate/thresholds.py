"""Consolidate: from where on a row fits a task too badly to be of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from contpeft.adapters import StatisticsHead
from contpeft.errors import SpecError
from contpeft.spec import Version
from contpeft.strategies.about import About
from contpeft.strategies.context import Context
from contpeft.strategies.over import read_by
from contpeft.strategies.rejection import threshold

__all__ = ["KeepThresholds"]


@dataclass(frozen=True)
class KeepThresholds:
    """The score that nearly all examples of a task reach under its statistics, gathered just before.

    A threshold stays as it was when its task was learnt. Means of earlier tasks do not change, so that those
    of class means hold; a shared covariance does, and later tasks make those of its rules a little too strict
    or too loose.

    Attributes:
        rule: the statistics, gathered by a part before this one.
        percentile: how many of a hundred examples are below the threshold.
    """

    about: ClassVar[About] = About(growth="8 bytes a task", needs=frozenset({"examples", "features"}))

    rule: str = "class-means"
    percentile: float = 1.0

    def end(self, context: Context, trained: Version | None) -> tuple[Version, ...]:
        """Adds the task's threshold to those of earlier tasks and registers them.

        Raises:
            SpecError: if no statistics of the rule were gathered for this task.
        """
        state = context.store.load(self._router(context).ref)
        assert state.head is not None  # statistics are a head
        head = StatisticsHead(state.head, state.head_tensors())
        data = context.training_data("thresholds of what is known")
        features = context.features.through(read_by(head), context.load, data.inputs, data.digest)
        own = threshold(head, features, context.step, self.percentile)
        name = f"{self.rule}-thresholds"
        last = context.recall(name)
        earlier = torch.empty(0, dtype=torch.float64) if last is None else last.tensors["thresholds"]
        kept = torch.cat([earlier, torch.tensor([own], dtype=torch.float64)])
        return (context.remember(name, {"thresholds": kept}, {"thresholds of": self.rule}),)

    def _router(self, context: Context) -> Version:
        for version in context.registered:
            if version.kind == "statistics" and version.head and version.head.options["rule"] == self.rule:
                return version
        raise SpecError(
            f"thresholds are of statistics gathered just before, and none of the rule {self.rule!r} were; "
            f"put a part that gathers them first: Then((GatherStatistics(...), KeepThresholds(...)))"
        )
