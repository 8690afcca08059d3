"""From the store's rows to the result of one run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING

from contpeft.errors import SpecError
from contpeft.experiments.report.result import GateDrift, LineageRow, ProtocolResult, RunResult, WayResult
from contpeft.metrics import Matrix, summarise, task_forgetting
from contpeft.spec import PROTOCOLS, TASK_HITS, Score, Task, Version

if TYPE_CHECKING:
    from contpeft.store import AdapterStore, Step

__all__ = ["collect"]

_BASE_STEP = -1
_MAIN_ANSWER = "main"


def collect(store: AdapterStore, run: str) -> RunResult:
    """Returns everything the store knows about a run, arranged in matrices.

    Args:
        store: where the run was recorded.
        run: its name.

    Raises:
        NotFoundError: if there is no such run.
        SpecError: if it has no tasks, or they do not share one metric.
    """
    record = store.run(run)
    tasks, steps = record.tasks, store.steps(run)
    metric = _shared_metric(run, tasks)
    told = store.scores(run=run)
    scores = [score for score in told if score.metric == metric]
    hits = [score for score in told if score.metric == TASK_HITS]
    made = _made(steps)
    versions = [store.show(ref) for ref in made]
    return RunResult(
        run=record.name,
        status=record.status,
        config=record.config,
        seed=record.seed,
        scenario=record.scenario,
        tasks=tasks,
        environment=_environment(versions),
        started_at=record.started_at,
        finished_at=record.finished_at,
        base_model=versions[0].base if versions else None,
        ways=tuple(_way(*key, tasks, steps, scores, hits) for key in _ways(steps, scores)),
        lineage=tuple(map(_lineage_row, versions, made.values())),
    )


def _shared_metric(run: str, tasks: Sequence[Task]) -> str:
    metrics = sorted({task.metric for task in tasks})
    if not metrics:
        raise SpecError(f"run {run!r} has no tasks, so there is nothing to report")
    if len(metrics) > 1 or len({task.lower_is_better for task in tasks}) > 1:
        names = ", ".join(metrics)
        raise SpecError(f"run {run!r} has tasks of several metrics ({names}); a mean over them means nothing")
    return metrics[0]


def _ways(steps: Iterable[Step], scores: Iterable[Score]) -> list[tuple[str, str, str]]:
    """Returns (way, answer, label) in order of appearance."""
    seen = [(step.way, answer) for step in steps for answer in step.answers]
    seen += [(score.way, score.answer) for score in scores if score.kind == "end"]
    keys = list(dict.fromkeys(seen))
    several = {way for way, _ in keys if sum(other == way for other, _ in keys) > 1}
    return [
        (way, answer, f"{way}: {answer}" if way in several and answer != _MAIN_ANSWER else way)
        for way, answer in keys
    ]


def _way(
    way: str,
    answer: str,
    label: str,
    tasks: Sequence[Task],
    steps: Iterable[Step],
    scores: Iterable[Score],
    hits: Iterable[Score],
) -> WayResult:
    own_steps = [step for step in steps if step.way == way]
    own_scores = [score for score in scores if (score.way, score.answer) == (way, answer)]
    own_hits = [score for score in hits if (score.way, score.answer) == (way, answer)]
    answers = [step.answers[answer] for step in own_steps if answer in step.answers]
    protocols = {
        protocol: replace(
            _protocol(tasks, [s for s in own_scores if s.protocol == protocol]),
            task_hits=_at_the_end([s for s in own_hits if s.protocol == protocol]),
        )
        for protocol in PROTOCOLS
        if any(s.protocol == protocol and s.kind == "end" for s in own_scores)
    }
    versions = answers[-1].refs() if answers else ()
    seconds = sum(step.seconds for step in own_steps) if own_steps else None
    drift = _gate_drift(own_steps[-1]) if own_steps and answer == _MAIN_ANSWER else {}
    return WayResult(way, answer, label, protocols, seconds, versions, drift)


def _gate_drift(last: Step) -> dict[str, GateDrift]:
    return {task: GateDrift(**told) for task, told in last.detail.get("gate_drift", {}).items()}


def _protocol(tasks: Sequence[Task], scores: Sequence[Score]) -> ProtocolResult:
    ends = [score for score in scores if score.kind == "end"]
    starts = [score for score in scores if score.kind == "start"]
    base = {score.task: score.value for score in starts if score.step == _BASE_STEP}
    start = {score.task: score.value for score in starts if score.step != _BASE_STEP}
    lower = tasks[0].lower_is_better
    matrix = Matrix.from_cells([t.name for t in tasks], ((s.step, s.task, s.value) for s in ends))
    return ProtocolResult(
        matrix=matrix,
        summary=summarise(matrix, base=base, start=start, lower_is_better=lower),
        task_forgetting=task_forgetting(matrix.negated() if lower else matrix),
        base=base,
        start=start,
        copied=frozenset((s.step, s.task) for s in ends if s.copied),
        n={(s.step, s.task): s.n for s in ends},
    )


def _at_the_end(scores: Sequence[Score]) -> float | None:
    """Returns the mean over tasks after the last step; None without scores."""
    last = max((score.step for score in scores), default=None)
    values = [score.value for score in scores if score.step == last]
    return fmean(values) if values else None


def _made(steps: Iterable[Step]) -> dict[str, Step]:
    """Returns reference to the step that made it, in order of appearance."""
    made: dict[str, Step] = {}
    for step in steps:
        for ref in step.versions:
            made.setdefault(ref, step)
    return made


def _environment(versions: Iterable[Version]) -> dict[str, str]:
    """Returns name to version; a run resumed on other software has several, joined."""
    found: dict[str, dict[str, None]] = {}
    for version in versions:
        for name, value in version.environment.items():
            found.setdefault(name, {})[str(value)] = None
    return {name: " and ".join(values) for name, values in found.items()}


def _lineage_row(version: Version, step: Step) -> LineageRow:
    return LineageRow(
        ref=version.ref,
        way=step.way,
        step=step.step,
        task=step.task,
        kind=version.kind,
        parents=version.parents,
        parameters=version.parameters,
        bytes=version.bytes,
        fingerprint=version.fingerprint,
    )
