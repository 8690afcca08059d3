"""What a search for the adapter method tried, and what it found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from statistics import fmean
from typing import Any, Literal

import yaml

from contpeft.spec import AdapterSpec, Protocol

__all__ = ["MethodSearchResult", "MethodTrial", "State"]

State = Literal["running", "finished", "stopped", "refused"]


@dataclass(frozen=True)
class MethodTrial:
    """One adapter and learning rate that was tried on the sequence.

    Attributes:
        number: from 0.
        adapter: the adapter.
        rate: the learning rate; None for the experiment's own.
        trained: how many numbers the adapter trains, head excluded.
        share: the same as a share of the base's parameters.
        scores: after each task so far, the accuracy on every task up to it, 0 to 1.
        seconds: time the steps took.
        state: ``"finished"``; ``"stopped"``, not promising after ``len(scores)`` tasks; ``"refused"``;
            ``"running"`` while it is watched.
        refused: why it could not be trained, or None.
    """

    number: int
    adapter: AdapterSpec
    rate: float | None
    trained: int
    share: float
    scores: tuple[tuple[float, ...], ...] = ()
    seconds: float = 0.0
    state: State = "running"
    refused: str | None = None

    @property
    def mean(self) -> float | None:
        """Mean accuracy over the tasks learned so far; None before the first."""
        return fmean(self.scores[-1]) if self.scores else None

    def settings(self) -> dict[str, Any]:
        """Returns the keys of an experiment file that make a run with this adapter."""
        told: dict[str, Any] = {"adapter": self.adapter.to_json()}
        if self.rate is not None:
            told["module"] = {"init_args": {"learning_rate": self.rate}}
        return told

    def yaml(self) -> str:
        """Returns :meth:`settings` as YAML, to be pasted into an experiment file."""
        lines = (
            f"{key}: {yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=1000)}"
            for key, value in self.settings().items()
        )
        return "".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Returns the trial as JSON."""
        told = {field.name: getattr(self, field.name) for field in fields(self)}
        scores = [list(row) for row in self.scores]
        return told | {"adapter": self.adapter.to_json(), "mean": self.mean, "scores": scores}


@dataclass(frozen=True)
class MethodSearchResult:
    """What a search found.

    Attributes:
        run: the run of the store that keeps the scores.
        strategy: the way the sequence was run.
        protocol: which classes could be answered.
        tasks: names of the tasks.
        rows: rows of each task that were measured on, all held out from training.
        trials: everything that was tried, in order.
    """

    run: str
    strategy: str
    protocol: Protocol
    tasks: tuple[str, ...]
    rows: Mapping[str, int]
    trials: tuple[MethodTrial, ...]

    @property
    def ranked(self) -> tuple[MethodTrial, ...]:
        """The trials, each setting once: finished ones by their mean, then those stopped last."""
        once = {(t.adapter, t.rate): t for t in reversed(self.trials)}
        return tuple(sorted(once.values(), key=_place))

    @property
    def best(self) -> MethodTrial | None:
        """The finished trial with the highest mean; of equals the one that trains least."""
        return next((trial for trial in self.ranked if trial.state == "finished"), None)

    def to_json(self) -> dict[str, Any]:
        """Returns the result as JSON."""
        best = self.best
        return {
            **{"run": self.run, "strategy": self.strategy, "protocol": self.protocol},
            **{"tasks": list(self.tasks), "rows": dict(self.rows)},
            "best": None if best is None else {"trial": best.number, **best.settings()},
            "trials": [trial.to_json() for trial in self.trials],
        }


def _place(trial: MethodTrial) -> tuple[int, int, float, int, int]:
    order = ("finished", "stopped", "running", "refused").index(trial.state)
    return order, -len(trial.scores), -(trial.mean or 0.0), trial.trained, trial.number
