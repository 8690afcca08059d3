"""The numbers of several runs of one experiment: mean and spread over seeds or task orders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from contpeft.errors import SpecError
from contpeft.experiments.report.result import RunResult
from contpeft.metrics import DEFINITIONS, Spread, spread
from contpeft.spec import PROTOCOLS, Protocol

__all__ = ["Aggregate", "aggregate"]


@dataclass(frozen=True)
class Aggregate:
    """One number of one way under one protocol, over several runs.

    Attributes:
        label: the way.
        protocol: the protocol.
        field: the number's field in :class:`contpeft.metrics.Summary`.
        spread: mean, sample standard deviation and count over the runs in which the number is
            defined; None if it is defined in none.
    """

    label: str
    protocol: Protocol
    field: str
    spread: Spread | None


def aggregate(results: Sequence[RunResult]) -> tuple[Aggregate, ...]:
    """Returns every number over several runs, for each way, protocol and number in this order.

    Runs may differ in seed and in the order of their tasks, and a way may be missing in some.

    Raises:
        SpecError: if there is no run, a run is given twice, or the runs do not have the same tasks
            and metric.
    """
    _check_comparable(results)
    labels = dict.fromkeys(way.label for result in results for way in result.ways)
    return tuple(
        Aggregate(label, protocol, d.field, spread(values) if values else None)
        for label in labels
        for protocol in PROTOCOLS
        if any(protocol in way.protocols for result in results for way in result.ways if way.label == label)
        for d in DEFINITIONS
        for values in [_values(results, label, protocol, d.field)]
    )


def _values(results: Sequence[RunResult], label: str, protocol: Protocol, field: str) -> list[float]:
    summaries = [
        way.protocols[protocol].summary
        for result in results
        for way in result.ways
        if way.label == label and protocol in way.protocols
    ]
    values = [summary.to_json()[field] for summary in summaries]
    return [value for value in values if value is not None]


def _check_comparable(results: Sequence[RunResult]) -> None:
    if not results:
        raise SpecError("there is no run to aggregate; name at least one")
    runs = [result.run for result in results]
    twice = sorted({run for run in runs if runs.count(run) > 1})
    if twice:
        raise SpecError(f"run {twice[0]!r} is given twice; a spread needs different runs")
    first = results[0]
    for other in results[1:]:
        if set(other.tasks) != set(first.tasks):
            raise SpecError(
                f"runs {first.run!r} and {other.run!r} have different tasks, so their mean means nothing; "
                "aggregate runs of one stream"
            )
