"""How far the confidence of a stored version can be believed, and the temperature that mends it.

Half of the rows fit the temperature, the other half says what it is worth (Guo et al. 2017, On calibration of
modern neural networks, sections 2 and 4.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from contpeft.digest import json_digest
from contpeft.errors import SpecError, UsageError
from contpeft.experiments.evaluation import Evaluation
from contpeft.experiments.examples import Examples
from contpeft.experiments.sampling import hold_out
from contpeft.experiments.task_rows import TaskRows
from contpeft.metrics.calibration import best_temperature, calibration_error, cross_entropy
from contpeft.spec import Part, Protocol, Score
from contpeft.spec.identity import calibration_key
from contpeft.store import AdapterStore
from contpeft.strategies.calibrated import TEMPERATURE

__all__ = ["WAY", "Calibration", "calibrate", "calibrate_part"]

WAY: Final = "calibration"
"""The way that its scores are written under."""
_PROTOCOL: Final[Protocol] = "all_classes"
_MEASURED: Final = ("ece", "ece_scaled", "nll", "nll_scaled")

_Asked = tuple[NDArray[np.float64], list[int]]


@dataclass(frozen=True)
class Calibration:
    """How sure something is, and how right.

    Attributes:
        answers: what was asked.
        tasks: the tasks whose rows it was asked about.
        temperature: what its scores are to be divided by; above 1 it was too sure.
        ece: expected calibration error on rows the temperature was not fitted on, 0 to 1.
        ece_scaled: the same at the temperature.
        nll: mean negative log-likelihood on the same rows, in nats.
        nll_scaled: the same at the temperature.
        fitted: number of rows the temperature was fitted on.
        measured: number of rows the others were measured on.
    """

    answers: str
    tasks: tuple[str, ...]
    temperature: float
    ece: float
    ece_scaled: float
    nll: float
    nll_scaled: float
    fitted: int
    measured: int


def calibrate(evaluation: Evaluation, store: AdapterStore, ref: str) -> tuple[Calibration, ...]:
    """Returns how a version is calibrated, measured once and kept in the store.

    A version with a head of its own is asked about all tasks that its head answers, together; a merged one
    once for every head that answers for it.

    Args:
        evaluation: the tasks and the model.
        store: where the version is.
        ref: the version.

    Raises:
        UsageError: if it answers none of the tasks.
        NotFoundError: if there is no such version.
        BaseMismatchError: if it was trained on another base model.
        ConfigError: if a class has a single row, which cannot be in both halves.
    """
    exact = evaluation.resolve(ref)
    asked: dict[Part, list[TaskRows]] = {}
    refused = ""
    for task in evaluation.tasks:
        try:
            asked.setdefault(evaluation.answers(exact, task), []).append(task)
        except SpecError as error:
            refused = str(error)
    if not asked:
        raise UsageError(f"{exact} answers none of the tasks: {refused}")
    return tuple(calibrate_part(evaluation, store, part, tasks) for part, tasks in asked.items())


def calibrate_part(
    evaluation: Evaluation, store: AdapterStore, part: Part, tasks: Sequence[TaskRows]
) -> Calibration:
    """Returns how one composition is calibrated on some tasks together; it is a measurement of its own.

    Args:
        evaluation: the tasks and the model.
        store: where its versions are, and its scores are kept.
        part: what answers, with every class that its head knows.
        tasks: whose rows it is asked about.

    Raises:
        SpecError: if its head does not know a class of these tasks.
        ConfigError: if a class has a single row, which cannot be in both halves.
    """
    halves = [_halves(task, evaluation.seed) for task in tasks]
    fit, held = [half for half, _ in halves], [half for _, half in halves]
    key = calibration_key(part, evaluation.base, store.show)
    data = json_digest([evaluation.reads, [[one.digest(), other.digest()] for one, other in halves]])
    cell = {"composition": key, "data": data, "protocol": _PROTOCOL}
    known = {name: store.cached_score(**cell, metric=name) for name in (TEMPERATURE, *_MEASURED)}
    values = {name: score.value for name, score in known.items() if score is not None}
    if len(values) < len(known):
        values = _measure(_asked(evaluation, part, fit), _asked(evaluation, part, held))
    names = tuple(task.name for task in tasks)
    found = Calibration(str(part), names, **values, fitted=_rows(fit), measured=_rows(held))
    if any(score is None for score in known.values()):
        store.add_scores(_scores(found, evaluation, **cell))
    return found


def _measure(fit: _Asked, held: _Asked) -> dict[str, float]:
    temperature = best_temperature(*fit)
    logits, right = held
    return {
        TEMPERATURE: temperature,
        "ece": calibration_error(logits, right),
        "ece_scaled": calibration_error(logits / temperature, right),
        "nll": cross_entropy(logits, right),
        "nll_scaled": cross_entropy(logits, right, temperature),
    }


def _asked(evaluation: Evaluation, part: Part, halves: Sequence[Examples]) -> _Asked:
    """Returns the scores ``(n, C)`` of the rows of several tasks, and the right columns."""
    logits, right = [], []
    for rows in halves:
        scores, classes = evaluation.scores(part, rows)
        unknown = sorted(set(rows.labels) - set(classes))
        if unknown:
            raise SpecError(f"the head of {part} does not know the class {unknown[0]!r}; give other tasks")
        logits.append(scores.double().numpy())
        right += [classes.index(label) for label in rows.labels]
    return np.concatenate(logits), right


def _halves(task: TaskRows, seed: int) -> tuple[Examples, Examples]:
    return hold_out(task.rows, task.rows.labels, 0.5, seed=seed, option="calibration")


def _rows(halves: Sequence[Examples]) -> int:
    return sum(map(len, halves))


def _scores(found: Calibration, evaluation: Evaluation, **cell: Any) -> list[Score]:
    # A name may come to mean another version, and another seed makes other halves.
    told = f"{found.answers}#{json_digest([cell['composition'], cell['data']])[:8]}"
    place: dict[str, Any] = {
        "run": evaluation.run,
        "way": WAY,
        "answer": told,
        "step": len(evaluation.tasks) - 1,
    }
    return [
        Score(
            **place,
            **cell,
            task="+".join(found.tasks),
            metric=name,
            value=getattr(found, name),
            n=found.fitted if name == TEMPERATURE else found.measured,
        )
        for name in (TEMPERATURE, *_MEASURED)
    ]
