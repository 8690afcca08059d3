"""The numbers of continual learning, as pure functions of the accuracy matrix.

Every function takes scores of which a larger one is better and leaves its arguments as they are. A
number that is undefined (one task only, a cell not measured) is None, never 0: the mean of nothing
is not a result.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import fmean

from contpeft.metrics.matrix import Matrix, check_finite

__all__ = [
    "average_accuracy",
    "average_incremental_accuracy",
    "backward_transfer",
    "forgetting",
    "forward_transfer",
    "learning_accuracy",
    "task_forgetting",
]


def average_accuracy(m: Matrix) -> float | None:
    """Returns ACC, the mean score over all tasks at the end: ``mean_j R[T-1][j]``.

    Lopez-Paz & Ranzato (2017), Gradient Episodic Memory for Continual Learning.
    """
    return _mean(m.last)


def learning_accuracy(m: Matrix) -> float | None:
    """Returns LA, the mean score on each task directly after learning it: ``mean_j R[j][j]``.

    Riemer et al. (2019), Learning to Learn without Forgetting by Maximizing Transfer and
    Minimizing Interference.
    """
    return _mean(m.diagonal)


def average_incremental_accuracy(m: Matrix) -> float | None:
    """Returns AIA, the mean over steps of the mean score on the tasks so far.

    ``mean_k mean_{j<=k} R[k][j]``: each task has the same weight within its step, however many
    examples it has. Rebuffi et al. (2017), iCaRL: Incremental Classifier and Representation
    Learning.
    """
    return _mean(_mean(row[: k + 1]) for k, row in enumerate(m.rows))


def backward_transfer(m: Matrix) -> float | None:
    """Returns BWT, what later learning did to earlier tasks: ``mean_{j<T-1} R[T-1][j] - R[j][j]``.

    Negative where tasks were forgotten. Lopez-Paz & Ranzato (2017).
    """
    gains = (_minus(last, first) for last, first in zip(m.last, m.diagonal, strict=True))
    return _mean(list(gains)[:-1])


def task_forgetting(m: Matrix) -> tuple[float | None, ...]:
    """Returns, for each task, its best score before the last step minus its score at the end.

    ``max_{l=j..T-2} R[l][j] - R[T-1][j]``, Chaudhry et al. (2018), Riemannian Walk for Incremental
    Learning, eq. 3, with the maximum over the rows since the task was learned: a lucky score
    before that is nothing the model could forget. It is negative where a task only gained. Rows
    not measured are passed over.

    Returns:
        ``T`` values; None where the end or every earlier row is not measured, and for the last
        task.
    """
    end = len(m.tasks) - 1
    return tuple(_minus(_best(m.column(j)[j:end]), m.last[j]) for j in range(len(m.tasks)))


def forgetting(m: Matrix) -> float | None:
    """Returns F, the mean of :func:`task_forgetting` over all tasks but the last."""
    return _mean(task_forgetting(m)[:-1])


def forward_transfer(
    m: Matrix, base: Mapping[str, float], start: Mapping[str, float] | None = None
) -> float | None:
    """Returns FWT, what earlier learning did for tasks not learned yet: ``mean_{j>=1} S[j] - b[j]``.

    Lopez-Paz & Ranzato (2017), with their ``S[j] = R[j-1][j]``. Where a head has no output for a
    task before it arrives, that cell cannot be measured; the score after the head was started and
    before the first training step stands in its place.

    Args:
        m: the matrix.
        base: ``b``, task name to score of the untouched base model.
        start: task name to score before the task's first training step, used where ``R[j-1][j]``
            is not measured.

    Raises:
        SpecError: if a score of ``base`` or ``start`` is NaN or infinite.
    """
    start = start or {}
    for scores, what in ((base, "base score"), (start, "start score")):
        for task, value in scores.items():
            check_finite(value, f"{what} on task {task!r}")

    def gain(j: int) -> float | None:
        task, before = m.tasks[j], m.rows[j - 1][j]
        return _minus(start.get(task) if before is None else before, base.get(task))

    return _mean(gain(j) for j in range(1, len(m.tasks)))


def _mean(values: Iterable[float | None]) -> float | None:
    known = list(values)
    measured = [value for value in known if value is not None]
    return fmean(measured) if known and len(measured) == len(known) else None


def _best(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b
