"""Runs, steps and scores: what a resumed experiment finds, and what may never change."""

from __future__ import annotations

import math
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_audit import audit
from store_workers import BASE, make_state

from contpeft.errors import ConfigError, ContpeftError, IntegrityError, NotFoundError, SpecError
from contpeft.spec import PROTOCOLS, Base, Composition, Route, Score, Single, Task
from contpeft.store import AdapterStore, Run, Step

TASKS = (Task("cats", ("no", "yes")), Task("dogs", ("a", "b", "c"), "perplexity", lower_is_better=True))
CONFIG = {"data": {"tasks": ["cats", "dogs"], "rows": 20}, "trainer": {"max_epochs": 3}}
MAIN = Score("demo", "ewc", "main", 0, "cats", "task_aware", "accuracy", 0.5, 10, "c0mp", "da7a")


def start(store: AdapterStore, name: str = "demo", **changes: Any) -> Run:
    content = {"config": CONFIG, "seed": 1, "tasks": TASKS, "scenario": "class-incremental", **changes}
    return store.start_run(name, **content)


def finish(store: AdapterStore, way: str = "ewc", step: int = 0, **changes: Any) -> Step:
    answers: dict[str, Composition] = {"main": Single("line@1"), "zero-shot": Base()}
    content = {
        "task": "cats",
        "answers": answers,
        "versions": ["line@1"],
        "scores": [replace(MAIN, way=way, step=step)],
        "seconds": 2.5,
        "detail": {"rows": (1, 2)},
        **changes,
    }
    return store.finish_step("demo", way, step, **content)


@pytest.fixture
def demo(store: AdapterStore) -> AdapterStore:
    """A store with the run ``demo`` and the versions line@1 and router@1."""
    start(store)
    store.register("line", make_state(0), base=BASE, run="demo")
    store.register("router", make_state(1), base=BASE)
    return store


def test_a_run_comes_back_as_it_was_started(store: AdapterStore) -> None:
    run = start(store)
    assert (run.name, run.config, run.seed, run.scenario) == ("demo", CONFIG, 1, "class-incremental")
    assert (run.tasks, run.status, run.finished_at) == (TASKS, "running", None)
    assert store.run("demo") == run
    assert store.runs() == [run]
    assert run.to_json() == {
        "name": "demo",
        "config": CONFIG,
        "seed": 1,
        "scenario": "class-incremental",
        "tasks": [
            {"name": "cats", "classes": ["no", "yes"], "metric": "accuracy", "lower_is_better": False},
            {"name": "dogs", "classes": ["a", "b", "c"], "metric": "perplexity", "lower_is_better": True},
        ],
        "status": "running",
        "started_at": run.started_at,
        "finished_at": None,
    }


def test_starting_an_equal_run_again_resumes_it(store: AdapterStore) -> None:
    run = start(store)
    same = {"trainer": {"max_epochs": 3}, "data": {"rows": 20, "tasks": ("cats", "dogs")}}
    assert start(store, config=same, tasks=list(TASKS)) == run
    assert [event.action for event in store.events("demo")] == ["run.started"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": {**CONFIG, "trainer": {"max_epochs": 5}}}, "trainer.max_epochs was 3, is now 5"),
        (
            {"config": {**CONFIG, "data": {"tasks": ["cats", "apes"], "rows": 21}}},
            "data.rows was 20, is now 21",
        ),
        (
            {"config": {**CONFIG, "data": {"tasks": ["cats"], "rows": 20}}},
            'data.tasks.1 was "dogs", is now not set',
        ),
        ({"config": {**CONFIG, "lr": 0.1}}, "lr was not set, is now 0.1"),
        ({"config": {**CONFIG, "trainer": None}}, 'trainer was {"max_epochs":3}, is now null'),
        ({"config": {**CONFIG, "note": "x" * 90}}, f'note was not set, is now "{"x" * 76}...'),
        ({"seed": 2}, "seed was 1, is now 2"),
        ({"seed": True}, "seed was 1, is now true"),
        ({"scenario": "domain"}, 'scenario was "class-incremental", is now "domain"'),
        ({"tasks": TASKS[:1]}, 'tasks.1 was {"classes":["a","b","c"],"lower_is_better":true,"metric":"'),
        ({"tasks": TASKS[::-1]}, 'tasks.0.classes.0 was "no", is now "a"'),
    ],
)
def test_a_run_never_changes_its_configuration(
    store: AdapterStore, change: dict[str, Any], message: str
) -> None:
    run = start(store)
    with pytest.raises(ConfigError) as caught:
        start(store, **change)
    assert str(caught.value).startswith(f"run 'demo' exists with another configuration: {message}")
    assert str(caught.value).endswith("; give this experiment another 'name:'")
    assert store.runs() == [run]
    assert len(store.events()) == 1
    assert start(store, "demo-2", **change).name == "demo-2"


def test_statuses(store: AdapterStore) -> None:
    def status() -> tuple[str, bool]:
        run = store.run("demo")
        return run.status, run.finished_at is not None

    start(store)
    seen = [status()]
    store.finish_run("demo", "interrupted")
    seen.append(status())
    start(store)
    seen.append(status())
    store.finish_run("demo", "failed")
    start(store)
    store.finish_run("demo", "finished")
    store.finish_run("demo", "finished")
    start(store)
    seen.append(status())
    assert seen == [("running", False), ("interrupted", True), ("running", False), ("finished", True)]
    assert [event.action.removeprefix("run.") for event in store.events("demo")] == [
        *("started", "interrupted", "resumed", "failed", "resumed", "finished")
    ]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda s: s.run("dem"), NotFoundError, "no run 'dem' in .*; did you mean 'demo'?"),
        (lambda s: s.finish_run("x", "failed"), NotFoundError, "no run 'x' in .*; there are: demo"),
        (lambda s: s.finish_run("demo", "finish"), SpecError, "end as 'finish'; did you mean 'finished'?"),
        (lambda s: start(s, "a/b"), SpecError, "run name 'a/b' is not usable"),
        (lambda s: start(s, "new", tasks=[TASKS[0]] * 2), SpecError, "'new' has two tasks called 'cats'"),
        (lambda s: start(s, "new", config={"x": {1}}), SpecError, "config of run 'new' has no JSON form"),
        (lambda s: s.add_scores([replace(MAIN, run="x")]), NotFoundError, "no run 'x'"),
    ],
)
def test_what_runs_refuse(store: AdapterStore, call: Any, error: type[ContpeftError], message: str) -> None:
    start(store)
    with pytest.raises(error, match=message):
        call(store)
    assert [run.name for run in store.runs()] == ["demo"]
    assert len(store.events()) == 1


def test_a_step_comes_back_with_its_scores(demo: AdapterStore) -> None:
    routed = Route("router@1", (Single("line@1"),))
    step = finish(demo, answers={"main": routed, "zero-shot": Base()}, versions=["line@1", "router@1"])
    assert (step.run, step.way, step.step, step.task, step.seconds) == ("demo", "ewc", 0, "cats", 2.5)
    assert step.answers == {"main": routed, "zero-shot": Base()}
    assert (step.versions, step.detail) == (("line@1", "router@1"), {"rows": [1, 2]})
    assert demo.steps("demo") == [step]
    assert demo.scores(run="demo") == [MAIN]
    assert step.to_json()["answers"] == {
        "main": {"type": "route", "router": "router@1", "choices": [{"type": "single", "ref": "line@1"}]},
        "zero-shot": {"type": "base"},
    }
    assert [event.detail for event in demo.events("demo/ewc/0")] == [{"task": "cats", "scores": 1}]


def test_steps_are_ordered_by_way_then_step(demo: AdapterStore) -> None:
    for way, step in (("ewc", 1), ("alone", 0), ("ewc", 0), ("alone", 1)):
        finish(demo, way, step)
    assert [(s.way, s.step) for s in demo.steps("demo")] == [
        *(("ewc", 0), ("ewc", 1), ("alone", 0), ("alone", 1))
    ]
    assert [(s.way, s.step) for s in demo.steps("demo", "alone")] == [("alone", 0), ("alone", 1)]
    assert demo.steps("other") == []


def test_finishing_an_equal_step_again_changes_nothing(demo: AdapterStore) -> None:
    step = finish(demo)
    before = demo.events()
    again = finish(demo, seconds=9.0, scores=[replace(MAIN, copied=True)], detail={"rows": [1, 2]})
    assert (again, demo.events(), demo.scores()) == (step, before, [MAIN])


@pytest.mark.parametrize(
    ("change", "column"),
    [
        ({"task": "dogs"}, "task"),
        ({"answers": {"main": Single("router@1")}}, "answers"),
        ({"versions": ["router@1"]}, "versions"),
        ({"detail": {}}, "detail"),
        ({"scores": []}, "scores"),
        ({"scores": [replace(MAIN, value=0.6)]}, "scores"),
        ({"scores": [MAIN, replace(MAIN, task="dogs")]}, "scores"),
    ],
)
def test_a_finished_step_never_changes(demo: AdapterStore, change: dict[str, Any], column: str) -> None:
    step = finish(demo)
    with pytest.raises(IntegrityError, match=f"step demo/ewc/0 is already finished with other {column};"):
        finish(demo, **change)
    assert (demo.steps("demo"), demo.scores()) == ([step], [MAIN])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"versions": ["line"]}, SpecError, "'line' may come to mean another version; write 'line@1'"),
        ({"answers": {"main": Single("line@latest")}}, SpecError, "write 'line@1'"),
        ({"answers": {"main": Single("line@7")}}, NotFoundError, "no version 'line@7'"),
        ({"answers": {"main": Route("lime@1", ())}}, NotFoundError, "no adapter 'lime'"),
        ({"seconds": float("nan")}, SpecError, "seconds of step 0 is nan"),
        ({"detail": {"x": {1}}}, SpecError, "detail of step 0 of run 'demo' has no JSON form"),
        ({"scores": [MAIN, replace(MAIN, task="dogs", value=float("nan"))]}, SpecError, "'dogs' .* is nan"),
        ({"scores": [MAIN, replace(MAIN, value=0.7)]}, IntegrityError, "is 0.5 and cannot become 0.7"),
    ],
)
def test_a_step_is_written_wholly_or_not_at_all(
    demo: AdapterStore, change: dict[str, Any], error: type[ContpeftError], message: str
) -> None:
    before = demo.events()
    with pytest.raises(error, match=message):
        finish(demo, **change)
    assert (demo.steps("demo"), demo.scores(), demo.events()) == ([], [], before)


def test_a_version_a_step_names_cannot_be_deleted(demo: AdapterStore) -> None:
    finish(demo, answers={"main": Route("router@1", (Single("line@1"),))}, versions=["line@1"])
    with closing(sqlite3.connect(demo.path / "store.db")) as raw:
        raw.execute("PRAGMA foreign_keys = ON")
        for ref in (1, 2):
            with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
                raw.execute("DELETE FROM version WHERE id = ?", (ref,))


NAMES = st.text(min_size=1, max_size=12)
SCORES = st.builds(
    Score,
    run=st.sampled_from(["demo", "second"]),
    way=NAMES,
    answer=NAMES,
    step=st.integers(-1, 2**62),
    task=NAMES,
    protocol=st.sampled_from(PROTOCOLS),
    metric=NAMES,
    value=st.floats(allow_nan=False, allow_infinity=False),
    n=st.integers(1, 2**62),
    composition=NAMES,
    data=NAMES,
    copied=st.booleans(),
    kind=st.sampled_from(["end", "start"]),
)


def key(score: Score) -> tuple[object, ...]:
    place = (score.run, score.way, score.answer, score.step)
    return (*place, score.task, score.protocol, score.metric, score.kind)


@settings(max_examples=40)
@given(scores=st.lists(SCORES, max_size=8, unique_by=key))
def test_scores_come_back_as_they_were(tmp_path_factory: pytest.TempPathFactory, scores: list[Score]) -> None:
    store = AdapterStore(tmp_path_factory.mktemp("scores"))
    for name in ("demo", "second"):
        start(store, name)
    store.add_scores(scores)
    store.add_scores([replace(score, copied=not score.copied) for score in scores])
    assert store.scores() == scores
    assert store.scores(run="demo") == [score for score in scores if score.run == "demo"]
    if scores:
        first = scores[0]
        assert store.scores(way=first.way, task=first.task) == [
            score for score in scores if (score.way, score.task) == (first.way, first.task)
        ]
    store.close()


@pytest.mark.parametrize(
    "change", [{"value": 0.25}, {"n": 11}, {"composition": "other"}, {"data": "other"}], ids=str
)
def test_a_score_never_changes(demo: AdapterStore, change: dict[str, Any]) -> None:
    demo.add_scores([MAIN])
    place = "demo/ewc/main/0/cats/task_aware/accuracy/end"
    with pytest.raises(IntegrityError, match=f"score {place} is 0.5 and cannot become"):
        demo.add_scores([replace(MAIN, task="dogs"), replace(MAIN, **change)])
    assert demo.scores() == [MAIN]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": math.inf}, "the score of 'main' on 'dogs' in run 'demo' is inf"),
        ({"value": None}, "has no value; leave the cell out"),
        ({"n": 0}, "n = 0"),
        ({"step": -2}, "step = -2"),
        ({"protocol": "all"}, "protocol of the score .* is 'all'"),
        ({"kind": "ends"}, "is 'ends'; did you mean 'end'?"),
    ],
)
def test_scores_that_are_refused(demo: AdapterStore, change: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        demo.add_scores([MAIN, replace(MAIN, task="dogs", **change)])
    assert demo.scores() == []


def test_scores_of_a_step_may_be_there_already(demo: AdapterStore) -> None:
    demo.add_scores([MAIN])
    finish(demo)
    assert demo.scores() == [MAIN]
    assert [event.action for event in demo.events()][-2:] == ["scores.added", "step.finished"]


def test_an_equal_cell_is_found_in_any_run(demo: AdapterStore) -> None:
    start(demo, "second")
    copied = replace(MAIN, task="copied", copied=True)
    later = replace(MAIN, run="second", kind="start", way="other", task="cats-again")
    demo.add_scores([copied, later, replace(later, answer="last")])
    cell = {"composition": "c0mp", "data": "da7a", "protocol": "task_aware", "metric": "accuracy"}
    assert demo.cached_score(**cell) == later
    for column in cell:
        assert demo.cached_score(**{**cell, column: "all_classes"}) is None


def test_views_answer_in_plain_sql(demo: AdapterStore) -> None:
    finish(demo, scores=[MAIN, replace(MAIN, task="dogs", copied=True), replace(MAIN, kind="start")])
    with closing(sqlite3.connect(demo.path / "store.db")) as raw:
        matrix = raw.execute("SELECT * FROM matrix ORDER BY step, position")
        assert [column[0] for column in matrix.description] == [
            *("run", "way", "answer", "protocol", "metric", "step"),
            *("task", "position", "value", "n", "copied"),
        ]
        assert matrix.fetchall() == [
            ("demo", "ewc", "main", "task_aware", "accuracy", 0, "cats", 0, 0.5, 10, 0),
            ("demo", "ewc", "main", "task_aware", "accuracy", 0, "dogs", 1, 0.5, 10, 1),
        ]
        demo.aliases.set("line@1", "b")
        demo.aliases.set("line@1", "a")
        demo.tags.set("line@1", {"keep": ""})
        listed = raw.execute("SELECT * FROM version_list ORDER BY id")
        assert [column[0] for column in listed.description] == [
            *("id", "ref", "name", "n", "kind", "origin", "base", "run", "task"),
            *("parameters", "bytes", "seconds", "sha256", "created_at", "parents"),
            *("aliases", "tags", "accuracy"),
        ]
        version = demo.show("line@1")
        assert listed.fetchone() == (
            *(1, "line@1", "line", 1, "lora", "trained", "tiny-bert", "demo", None),
            *(16, version.bytes, None, version.sha256, version.created_at, 0),
            *("a b", "keep=", 0.5),
        )


def test_the_audit_holds_for_a_whole_run(demo: AdapterStore, tmp_path: Path) -> None:
    finish(demo)
    finish(demo, "alone")
    demo.finish_run("demo", "finished")
    assert audit(demo.path) == []
