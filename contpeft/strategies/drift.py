"""How far one adapter answers otherwise than another on what was learnt before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor

from contpeft.adapters import Load
from contpeft.spec import Part
from contpeft.strategies.about import About
from contpeft.strategies.context import Context
from contpeft.strategies.kept_rows import KeptTask, kept_rows
from contpeft.strategies.predict import Answerer

__all__ = ["Drift", "LostOnRows", "MovedAnswers", "accuracy_on"]


class Drift(Protocol):
    """What two adapters differ in on earlier tasks."""

    def between(self, context: Context, before: Part, after: Part) -> float:
        """Returns by how much ``after`` is further from what was learnt than ``before``; 0 for equal ones."""
        ...


@dataclass(frozen=True)
class MovedAnswers:
    """The share of probability that moves between earlier classes, on the current task's rows; no old data.

    The rows of the head that belong to earlier classes are what is known of them. Both adapters are asked how
    they tell these classes apart, and what is returned is the mean total variation distance between the two
    answers, from 0 to 1. The inputs are not those of the earlier tasks: it is a proxy for forgetting, as in
    learning without forgetting (Li and Hoiem 2016, arXiv 1606.09282, section 3).
    """

    about: ClassVar[About] = About(
        paper="Li and Hoiem 2016, arXiv 1606.09282", needs=frozenset({"examples", "features"})
    )

    def between(self, context: Context, before: Part, after: Part) -> float:
        """Returns the mean distance, 0 to 1."""
        earlier = {label for version in context.adapters for label in _known(context, version.ref)}
        answers = [self._answers(context, part, earlier) for part in (before, after)]
        return float((answers[0] - answers[1]).abs().sum(1).mean() / 2)

    def _answers(self, context: Context, part: Part, earlier: set[str]) -> Tensor:
        data = context.training_data("measuring drift")
        answerer = Answerer(context.adapted, context.load, context.features)
        scores, classes = answerer.scores(part, data.inputs, data.digest)
        columns = [column for column, label in enumerate(classes) if label in earlier]
        return scores[:, columns].double().softmax(1)


@dataclass(frozen=True)
class LostOnRows:
    """The accuracy lost on rows kept of earlier tasks, each with its task known; old data.

    It is the largest loss of any earlier task, so that no task pays for the others.
    """

    about: ClassVar[About] = About(needs=frozenset({"examples", "features", "old data"}))

    def between(self, context: Context, before: Part, after: Part) -> float:
        """Returns the largest loss, -1 to 1; 0 where nothing is kept yet."""
        tasks = kept_rows(context)
        had, has = (accuracy_on(context, tasks, part) for part in (before, after))
        return max((a - b for a, b in zip(had, has, strict=True)), default=0.0)


def accuracy_on(
    context: Context, tasks: Sequence[KeptTask], part: Part, load: Load | None = None
) -> list[float]:
    """Returns the accuracy of what one head answers for on each task, the task known.

    Args:
        context: whose model answers.
        tasks: the rows.
        part: what answers.
        load: gives a version's entry and weights; those of the store without it.
    """
    answerer = Answerer(context.adapted, load or context.load, context.features)
    found = []
    for number, task in enumerate(tasks):
        answered = answerer.predict(part, task.inputs, f"kept rows {number}", task.classes)
        found.append(sum(map(str.__eq__, answered, task.labels)) / len(task.labels))
    return found


def _known(context: Context, ref: str) -> tuple[str, ...]:
    head = context.store.show(ref).head
    return head.classes if head else ()
