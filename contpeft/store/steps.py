"""Steps and scores: what a run measured, and how far it has come."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, fields, replace
from typing import Any

from contpeft.digest import canonical_json, json_digest
from contpeft.errors import IntegrityError, SpecError, suggest
from contpeft.spec import PROTOCOLS, Composition, Score, composition_from_json
from contpeft.store import events, runs, versions
from contpeft.store.rows import check_finite, insert_row, json_text, parse_json

__all__ = [
    "Step",
    "add_scores",
    "arrive",
    "arrive_score",
    "cached_score",
    "finish",
    "scores_of_composition",
    "scores_of_version",
    "select",
    "select_scores",
]

_KINDS = ("end", "start")
_KEY = ("run", "way", "answer", "step", "task", "protocol", "metric", "kind")
_COLUMNS = tuple(field.name for field in fields(Score))
_INSERT_SCORE = (
    f"INSERT INTO score ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))}) "
    "ON CONFLICT DO NOTHING"
)


@dataclass(frozen=True)
class Step:
    """One finished step of a run: a task learned one way.

    Attributes:
        run: the run's name.
        way: which strategy of the run.
        step: index of the task in the stream.
        task: the task's name.
        answers: what answers after this step, by the name of the answer.
        versions: ``name@n`` of the versions this step made.
        seconds: how long it took.
        detail: whatever else the strategy wrote down, as JSON.
        finished_at: UTC, ISO 8601.
    """

    run: str
    way: str
    step: int
    task: str
    answers: Mapping[str, Composition]
    versions: tuple[str, ...]
    seconds: float
    detail: Mapping[str, Any]
    finished_at: str

    def to_json(self) -> dict[str, Any]:
        """Returns the step as JSON."""
        value = {field.name: getattr(self, field.name) for field in fields(self)}
        value["answers"] = {name: answer.to_json() for name, answer in self.answers.items()}
        value["versions"] = list(self.versions)
        value["detail"] = dict(self.detail)
        return value


def finish(connection: sqlite3.Connection, step: Step, scores: Sequence[Score], store: str) -> Step:
    """Writes a finished step with all its scores and returns it; an equal one stays as it is.

    The time it took is not part of what must be equal: a step done again takes another time.

    Raises:
        IntegrityError: if the step is there with other content.
    """
    where = f"{step.run}/{step.way}/{step.step}"
    runs.get(connection, step.run, store)
    refs = {*step.versions, *(ref for answer in step.answers.values() for ref in answer.refs())}
    ids = versions.refs_to_ids(connection, sorted(refs), store)
    content = {**_content(step), "scores_digest": _scores_digest(scores)}
    known = _row(connection, step)
    if known:
        _check_same(where, known, content)
        return _step(known)
    add_scores(connection, scores, store)
    _insert(connection, step, content, ids)
    events.record(connection, "step.finished", where, task=step.task, scores=len(scores))
    return _step(_row(connection, step))


def arrive(connection: sqlite3.Connection, step: Step, scores_digest: str, store: str) -> bool:
    """Writes a step another store finished; its scores come by :func:`arrive_score`.

    Returns:
        False when the step is there with other content, which then stays.
    """
    refs = {*step.versions, *(ref for answer in step.answers.values() for ref in answer.refs())}
    content = {**_content(step), "scores_digest": scores_digest}
    known = _row(connection, step)
    if known:
        return all(known[column] == value for column, value in content.items())
    _insert(connection, step, content, versions.refs_to_ids(connection, sorted(refs), store))
    return True


def arrive_score(connection: sqlite3.Connection, score: Score) -> bool | None:
    """Writes a score another store measured.

    Returns:
        Whether it is new, or None when the cell is there with another value, which then stays.
    """
    if connection.execute(_INSERT_SCORE, astuple(_checked(score))).rowcount:
        return True
    return False if replace(_known(connection, score), copied=score.copied) == score else None


def select(connection: sqlite3.Connection, run: str, way: str | None) -> list[Step]:
    """Returns the finished steps of a run: way by way in the order they began, then by step."""
    rows = connection.execute(
        """
        SELECT * FROM step WHERE run = ?1 AND (?2 IS NULL OR way = ?2)
        ORDER BY min(id) OVER (PARTITION BY way), step
        """,
        (run, way),
    )
    return [_step(row) for row in rows]


def add_scores(connection: sqlite3.Connection, scores: Iterable[Score], store: str) -> None:
    """Writes scores; one that is there with equal content stays as it is.

    Whether the value was copied is not part of what must be equal.

    Raises:
        IntegrityError: if a score is there with another value, number of rows, composition or data.
        NotFoundError: if a run does not exist.
    """
    checked = [_checked(score) for score in scores]
    for run in sorted({score.run for score in checked}):
        runs.get(connection, run, store)
    added = [score for score in checked if _add(connection, score)]
    for run in sorted({score.run for score in added}):
        cells = sum(score.run == run for score in added)
        events.record(connection, "scores.added", run, cells=cells)


def select_scores(
    connection: sqlite3.Connection, run: str | None, way: str | None, task: str | None
) -> list[Score]:
    """Returns the scores that meet every condition given, in the order they were written."""
    rows = connection.execute(
        f"""
        SELECT {", ".join(_COLUMNS)} FROM score
        WHERE (?1 IS NULL OR run = ?1) AND (?2 IS NULL OR way = ?2) AND (?3 IS NULL OR task = ?3)
        ORDER BY id
        """,
        (run, way, task),
    )
    return [_score(row) for row in rows]


def scores_of_version(connection: sqlite3.Connection, version_id: int) -> list[Score]:
    """Returns the scores of a version, by its row id, in the order they were written."""
    rows = connection.execute(
        f"""
        SELECT {", ".join(_COLUMNS)} FROM score
        WHERE id IN (SELECT score_id FROM version_score WHERE version_id = ?) ORDER BY id
        """,
        (version_id,),
    )
    return [_score(row) for row in rows]


def scores_of_composition(connection: sqlite3.Connection, composition: str) -> list[Score]:
    """Returns what was measured of a composition in any run, the newest first."""
    rows = connection.execute(
        f"SELECT {', '.join(_COLUMNS)} FROM score WHERE composition = ? AND NOT copied ORDER BY id DESC",
        (composition,),
    )
    return [_score(row) for row in rows]


def cached_score(connection: sqlite3.Connection, **cell: str) -> Score | None:
    """Returns the first measured score of an equal cell, or None when there is none."""
    row = connection.execute(
        f"""
        SELECT {", ".join(_COLUMNS)} FROM score
        WHERE composition = :composition AND data = :data AND protocol = :protocol
          AND metric = :metric AND NOT copied
        ORDER BY id LIMIT 1
        """,
        cell,
    ).fetchone()
    return _score(row) if row else None


def _row(connection: sqlite3.Connection, step: Step) -> Any:
    return connection.execute(
        "SELECT * FROM step WHERE run = ? AND way = ? AND step = ?", (step.run, step.way, step.step)
    ).fetchone()


def _content(step: Step) -> dict[str, str]:
    """Returns the columns that must be equal when a step is finished twice, its scores aside."""
    what = f"step {step.step} of run {step.run!r}"
    value = step.to_json()
    return {
        "task": step.task,
        "answers": json_text(value["answers"], f"answers of {what}"),
        "versions": json_text(value["versions"], f"versions of {what}"),
        "detail": json_text(value["detail"], f"detail of {what}"),
    }


def _scores_digest(scores: Sequence[Score]) -> str:
    return json_digest(
        sorted(canonical_json(asdict(replace(_checked(score), copied=False))) for score in scores)
    )


def _check_same(where: str, known: sqlite3.Row, content: Mapping[str, str]) -> None:
    for column, value in content.items():
        if known[column] != value:
            raise IntegrityError(
                f"step {where} is already finished with other {column.removesuffix('_digest')}; "
                "a finished step never changes: give this experiment another 'name:'"
            )


def _insert(
    connection: sqlite3.Connection, step: Step, content: Mapping[str, str], ids: Mapping[str, int]
) -> None:
    seconds = check_finite(step.seconds, f"seconds of step {step.step}")
    place = {"run": step.run, "way": step.way, "step": step.step}
    step_id = insert_row(
        connection, "step", **place, seconds=seconds, finished_at=step.finished_at, **content
    )
    connection.executemany(
        "INSERT INTO step_version (step_id, version_id, made) VALUES (?, ?, ?)",
        [(step_id, version_id, ref in step.versions) for ref, version_id in ids.items()],
    )


def _checked(score: Score) -> Score:
    cell = f"score of {score.answer!r} on {score.task!r} in run {score.run!r}"
    if score.protocol not in PROTOCOLS:
        raise SpecError(f"protocol of the {cell} is {score.protocol!r}{suggest(score.protocol, PROTOCOLS)}")
    if score.kind not in _KINDS:
        raise SpecError(f"kind of the {cell} is {score.kind!r}{suggest(score.kind, _KINDS)}")
    if score.n < 1 or score.step < -1:
        raise SpecError(
            f"the {cell} has n = {score.n} and step = {score.step}; n is 1 or more, step -1 or more"
        )
    value = check_finite(score.value, f"the {cell}")
    if value is None:
        raise SpecError(f"the {cell} has no value; leave the cell out")
    return replace(score, value=value, n=int(score.n), step=int(score.step), copied=bool(score.copied))


def _add(connection: sqlite3.Connection, score: Score) -> bool:
    """Inserts a score; returns False when an equal one was there."""
    if connection.execute(_INSERT_SCORE, astuple(score)).rowcount:
        return True
    known = _known(connection, score)
    if replace(known, copied=score.copied) != score:
        cell = "/".join(str(getattr(score, column)) for column in _KEY)
        raise IntegrityError(
            f"score {cell} is {known.value} and cannot become {score.value} "
            "(or is of other rows or another composition); a score never changes: use another run"
        )
    return False


def _known(connection: sqlite3.Connection, score: Score) -> Score:
    """Returns the score that has the place of this one."""
    clause = " AND ".join(f"{column} = :{column}" for column in _KEY)
    row = connection.execute(f"SELECT {', '.join(_COLUMNS)} FROM score WHERE {clause}", asdict(score))
    return _score(row.fetchone())


def _step(row: sqlite3.Row) -> Step:
    answers = parse_json(row["answers"])
    return Step(
        run=row["run"],
        way=row["way"],
        step=row["step"],
        task=row["task"],
        answers={name: composition_from_json(answer) for name, answer in answers.items()},
        versions=tuple(parse_json(row["versions"])),
        seconds=row["seconds"],
        detail=parse_json(row["detail"]),
        finished_at=row["finished_at"],
    )


def _score(row: sqlite3.Row) -> Score:
    return replace(Score(*row), copied=bool(row["copied"]))
