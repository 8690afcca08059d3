"""One matrix in six numbers, and one number over several seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import NamedTuple

from contpeft.errors import SpecError
from contpeft.metrics.matrix import Matrix
from contpeft.metrics.numbers import (
    average_accuracy,
    average_incremental_accuracy,
    backward_transfer,
    forgetting,
    forward_transfer,
    learning_accuracy,
)

__all__ = ["Spread", "Summary", "spread", "summarise"]


@dataclass(frozen=True)
class Summary:
    """The numbers of one matrix; None where undefined. :data:`DEFINITIONS` says what each means."""

    acc: float | None
    bwt: float | None
    forgetting: float | None
    fwt: float | None
    learning_accuracy: float | None
    average_incremental_accuracy: float | None

    def to_json(self) -> dict[str, float | None]:
        """Returns the numbers as one flat JSON object; undefined is null."""
        return asdict(self)


def summarise(
    m: Matrix,
    *,
    base: Mapping[str, float] | None = None,
    start: Mapping[str, float] | None = None,
    lower_is_better: bool = False,
) -> Summary:
    """Returns all numbers of a matrix.

    Args:
        m: the matrix, in the metric's own unit.
        base: see :func:`forward_transfer`; without it FWT is undefined.
        start: see :func:`forward_transfer`.
        lower_is_better: True for a loss or a perplexity. The transfers and forgetting are then
            taken of the negated scores, so that a positive BWT or FWT always means an improvement
            and a positive forgetting always means a loss; the means (ACC, LA, AIA) stay in the
            metric's own unit and sign.

    Raises:
        SpecError: if a score is NaN or infinite.
    """
    sign = -1.0 if lower_is_better else 1.0
    better = m.negated() if lower_is_better else m
    signed_base = {task: sign * value for task, value in (base or {}).items()}
    signed_start = {task: sign * value for task, value in (start or {}).items()}
    return Summary(
        acc=average_accuracy(m),
        bwt=backward_transfer(better),
        forgetting=forgetting(better),
        fwt=forward_transfer(better, signed_base, signed_start),
        learning_accuracy=learning_accuracy(m),
        average_incremental_accuracy=average_incremental_accuracy(m),
    )


class Spread(NamedTuple):
    """One number over several runs.

    Attributes:
        mean: the arithmetic mean.
        std: the sample standard deviation (divisor ``n - 1``), or None for a single value.
        n: how many values there are.
    """

    mean: float
    std: float | None
    n: int


def spread(values: Sequence[float]) -> Spread:
    """Returns the mean and the spread of one number over seeds or task orders.

    Raises:
        SpecError: if there is no value.
    """
    if not values:
        raise SpecError("the spread of no values is undefined; give the number of at least one run")
    return Spread(fmean(values), stdev(values) if len(values) > 1 else None, len(values))
