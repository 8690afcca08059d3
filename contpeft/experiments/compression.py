"""What compressing costs in accuracy, measured before anything is stored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean

from contpeft.errors import SpecError, UsageError
from contpeft.experiments.evaluation import Evaluation
from contpeft.experiments.gate_report import allowed
from contpeft.experiments.task_rows import TaskRows
from contpeft.store.compression.compressing import Candidate

__all__ = ["Measured", "answered", "measure"]


@dataclass(frozen=True)
class Measured:
    """What becomes of the accuracy of one version.

    Attributes:
        ref: ``name@n`` of what is compressed.
        tasks: number of tasks that it answers.
        before: mean accuracy over them, 0 to 1.
        after: the same, compressed.
    """

    ref: str
    tasks: int
    before: float
    after: float

    @property
    def loss(self) -> float:
        """How much accuracy is lost; negative if it is gained."""
        return self.before - self.after

    def within(self, most: float) -> bool:
        """Returns whether no more than ``most`` of the accuracy is lost, 0 to 1."""
        return allowed(self.loss, most)


def measure(evaluation: Evaluation, planned: Candidate) -> tuple[Measured, ...]:
    """Returns what versions score, as they are and compressed, each on the tasks that it answers.

    Args:
        evaluation: tasks and model.
        planned: the versions compressed, not stored.

    Raises:
        UsageError: if a version answers none of the tasks.
        BaseMismatchError: if they were trained on another base model.
    """
    return tuple(_measured(evaluation, planned))


def _measured(evaluation: Evaluation, planned: Candidate) -> Iterator[Measured]:
    for version, state in zip(planned.versions, planned.states(), strict=True):
        ref = evaluation.resolve(version.ref)
        tasks = answered(evaluation, ref)
        before = fmean(evaluation.score(ref, task) for task in tasks)
        with evaluation.guest(state, (ref,)) as guest:
            after = fmean(evaluation.score(guest, task) for task in tasks)
        yield Measured(ref, len(tasks), before, after)


def answered(evaluation: Evaluation, ref: str) -> list[TaskRows]:
    """Returns the tasks whose classes a head of a version knows.

    Raises:
        UsageError: if there is none.
    """
    found, reason = [], ""
    for task in evaluation.tasks:
        try:
            evaluation.answers(ref, task)
        except SpecError as error:
            reason = str(error)
        else:
            found.append(task)
    if not found:
        raise UsageError(f"{ref} answers no task of the evaluation, so it cannot be measured: {reason}")
    return found
