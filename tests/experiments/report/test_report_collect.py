from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from contpeft.errors import NotFoundError, SpecError
from contpeft.experiments.report import RunResult, aggregate, collect
from contpeft.metrics import Matrix, summarise
from contpeft.spec import AdapterState, BaseModel, Parent, Score, Single, Task
from contpeft.store import AdapterStore

TASKS = (Task("mail", ("a", "b")), Task("chat", ("c", "d")), Task("sms", ("e", "f")))


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[AdapterStore]:
    store = AdapterStore(tmp_path)
    store.start_run("r", config={"lr": 0.1}, seed=3, tasks=TASKS, scenario="class-incremental")
    yield store
    store.close()


def score(step: int, task: str, value: float, **changes: object) -> Score:
    cell = Score("r", "lora", "main", step, task, "task_aware", "accuracy", value, 50, f"c{step}", task)
    return dataclasses.replace(cell, **changes)  # type: ignore[arg-type]


def test_ways_come_in_order_of_appearance_with_their_labels(result: RunResult) -> None:
    assert [(way.way, way.answer, way.label, way.bound) for way in result.ways] == [
        ("frozen", "class-means", "frozen: class-means", True),
        ("frozen", "lda", "frozen: lda", True),
        ("sequential", "main", "sequential", False),
        ("isolated", "main", "isolated", False),
        ("joint", "main", "joint", False),
    ]


def test_facts_of_the_run(result: RunResult) -> None:
    assert (result.run, result.status, result.seed, result.scenario) == (
        "newsgroups-s0",
        "finished",
        0,
        "class-incremental",
    )
    assert result.config["adapter"] == {"method": "lora", "r": 8, "targets": ["query", "value"]}
    assert result.base_model is not None
    assert (result.base_model.name, result.base_model.parameters) == ("all-MiniLM-L6-v2", 22_713_216)
    assert {"python", "torch", "contpeft"} <= result.environment.keys()
    assert result.protocols == ("task_aware", "all_classes")
    assert (result.metric, result.lower_is_better) == ("accuracy", False)


def test_matrices_hold_the_scores_of_the_store(store: AdapterStore, result: RunResult) -> None:
    names = [task.name for task in result.tasks]
    for way in result.ways:
        for protocol, scored in way.protocols.items():
            want = np.full((5, 5), np.nan)
            for s in store.scores(run=result.run, way=way.way):
                if (s.answer, s.protocol, s.kind) == (way.answer, protocol, "end"):
                    want[s.step, names.index(s.task)] = s.value
            np.testing.assert_array_equal(np.array(scored.matrix.rows, dtype=float), want)
            assert np.isfinite(want).sum() == (5 if way.way == "joint" else 15)
            assert set(scored.n.values()) == {160}
            assert len(scored.n) == np.isfinite(want).sum()


def test_only_cells_that_were_copied_are_marked(result: RunResult) -> None:
    names = [task.name for task in result.tasks]
    below = {(i, names[j]) for i in range(5) for j in range(i)}
    copied = {(way.label, p): set(r.copied) for way in result.ways for p, r in way.protocols.items()}
    assert copied.pop(("isolated", "task_aware")) == below
    assert set(map(frozenset, copied.values())) == {frozenset()}


def test_forward_transfer_compares_the_start_with_the_base(result: RunResult) -> None:
    sequential = next(way for way in result.ways if way.label == "sequential")
    scored = sequential.protocols["task_aware"]
    later = [task.name for task in result.tasks[1:]]
    assert scored.base == dict.fromkeys(later, 0.8)
    assert scored.start == dict(zip(later, (0.8625, 0.8625, 0.83125, 0.7875), strict=True))
    assert scored.summary.fwt == pytest.approx((0.0625 + 0.0625 + 0.03125 - 0.0125) / 4)
    assert sequential.protocols["all_classes"].summary.fwt is None


def test_seconds_are_summed_over_the_steps_of_a_way(result: RunResult) -> None:
    assert [way.seconds for way in result.ways] == [22.5, 22.5, 190.0, 197.5, 186.0]


def test_final_versions_are_those_of_the_last_answer(result: RunResult) -> None:
    versions = {way.label: way.versions for way in result.ways}
    assert versions["sequential"] == ("newsgroups-s0.sequential@5",)
    assert versions["isolated"] == (
        "newsgroups-s0.statistics@5",
        *(f"newsgroups-s0.isolated.{task.name}@1" for task in result.tasks),
    )


def test_lineage_has_each_version_once_with_its_parents(result: RunResult) -> None:
    rows = {row.ref: row for row in result.lineage}
    assert len(rows) == len(result.lineage) == 16
    third = rows["newsgroups-s0.sequential@3"]
    assert (third.way, third.step, third.task, third.kind) == ("sequential", 2, "crypt-space", "lora")
    assert third.parents == (Parent("newsgroups-s0.sequential@2"),)
    assert third.fingerprint != rows["newsgroups-s0.sequential@2"].fingerprint
    assert rows["newsgroups-s0.statistics@1"].kind == "statistics"


def test_a_version_two_steps_name_belongs_to_the_first(empty: AdapterStore) -> None:
    state = AdapterState("lora", {}, {"w": torch.ones(2, 2)})
    ref = empty.register("a", state, base=BaseModel("tiny", "ab" * 32, 4), run="r").ref
    for way in ("first", "second"):
        finished = {"answers": {"main": Single(ref)}, "versions": [ref], "scores": [], "seconds": 1.0}
        empty.finish_step("r", way, 0, task="mail", **finished)
    assert [(row.ref, row.way) for row in collect(empty, "r").lineage] == [("a@1", "first")]


def test_a_run_that_has_only_begun(empty: AdapterStore) -> None:
    got = collect(empty, "r")
    assert (got.ways, got.lineage, got.protocols, got.base_model) == ((), (), (), None)
    assert (got.status, got.finished_at) == ("running", None)


def test_an_interrupted_run_keeps_what_was_measured(empty: AdapterStore) -> None:
    empty.add_scores([score(0, "mail", 0.5), score(1, "mail", 0.25), score(1, "chat", 0.75)])
    (way,) = collect(empty, "r").ways
    scored = way.protocols["task_aware"]
    assert scored.matrix.rows == ((0.5, None, None), (0.25, 0.75, None), (None, None, None))
    assert set(scored.summary.to_json().values()) == {None}
    assert (way.seconds, way.versions) == (None, ())


def test_start_scores_alone_make_no_way(empty: AdapterStore) -> None:
    empty.add_scores([score(0, "mail", 0.5, kind="start"), score(-1, "mail", 0.25, kind="start")])
    assert collect(empty, "r").ways == ()


def test_other_metrics_of_the_same_cells_are_left_out(empty: AdapterStore) -> None:
    empty.add_scores([score(0, "mail", 0.5), score(0, "mail", 2.5, metric="loss")])
    assert collect(empty, "r").ways[0].protocols["task_aware"].matrix.rows[0] == (0.5, None, None)


def test_a_main_answer_keeps_the_plain_label_beside_others(empty: AdapterStore) -> None:
    empty.add_scores([score(0, "mail", 0.5), score(0, "mail", 0.25, answer="routed")])
    assert [way.label for way in collect(empty, "r").ways] == ["lora", "lora: routed"]


def test_lower_is_better_turns_differences_and_no_means(tmp_path: Path) -> None:
    tasks = [Task(name, ("x", "y"), "perplexity", lower_is_better=True) for name in ("a", "b")]
    store = AdapterStore(tmp_path)
    store.start_run("r", config={}, seed=0, tasks=tasks, scenario="domain-incremental")
    cells = [(0, "a", 2.0), (0, "b", 8.0), (1, "a", 5.0), (1, "b", 3.0)]
    store.add_scores(score(i, task, value, metric="perplexity") for i, task, value in cells)
    start = score(-1, "b", 9.0, metric="perplexity", kind="start")
    store.add_scores([start])
    scored = collect(store, "r").ways[0].protocols["task_aware"]
    store.close()
    assert scored.summary == summarise(
        Matrix.from_cells(["a", "b"], cells), base={"b": 9.0}, lower_is_better=True
    )
    assert (scored.summary.acc, scored.summary.bwt, scored.summary.fwt) == (4.0, -3.0, 1.0)
    assert scored.task_forgetting == (3.0, None)


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (
            [Task("a", ("x", "y")), Task("b", ("x", "y"), "f1")],
            "run 'bad' has tasks of several metrics (accuracy, f1); a mean over them means nothing",
        ),
        (
            [Task("a", ("x", "y")), Task("b", ("x", "y"), lower_is_better=True)],
            "run 'bad' has tasks of several metrics (accuracy); a mean over them means nothing",
        ),
        ([], "run 'bad' has no tasks, so there is nothing to report"),
    ],
)
def test_tasks_that_cannot_be_averaged_are_refused(tmp_path: Path, tasks: list[Task], message: str) -> None:
    store = AdapterStore(tmp_path)
    store.start_run("bad", config={}, seed=0, tasks=tasks, scenario="task-incremental")
    with pytest.raises(SpecError) as caught:
        collect(store, "bad")
    store.close()
    assert str(caught.value) == message


def test_an_unknown_run_is_named(store: AdapterStore) -> None:
    with pytest.raises(NotFoundError, match=r"no run 'newsgroups-s3' .* did you mean 'newsgroups-s"):
        collect(store, "newsgroups-s3")


def test_software_of_a_resumed_run_is_named_twice(
    empty: AdapterStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = BaseModel("tiny", "ab" * 32, 4)
    for step, version in enumerate(("2.9", "2.10")):
        monkeypatch.setattr("contpeft.store.drafts.environment", lambda v=version: {"torch": v, "os": "x"})
        state = AdapterState("lora", {}, {"w": torch.full((2, 2), float(step))})
        ref = empty.register("a", state, base=base, run="r").ref
        finished = {"answers": {"main": Single(ref)}, "versions": [ref], "scores": [], "seconds": 1.0}
        empty.finish_step("r", "lora", step, task=TASKS[step].name, **finished)
    assert collect(empty, "r").environment == {"torch": "2.9 and 2.10", "os": "x"}


def test_everything_has_a_json_form(result: RunResult) -> None:
    value = json.loads(json.dumps(result.to_json(), allow_nan=False))
    isolated = value["ways"][3]["protocols"]["task_aware"]
    assert isolated["matrix"]["rows"][0] == [0.9625, None, None, None, None]
    assert isolated["copied"][:2] == [[1, "graphics-hardware"], [2, "graphics-hardware"]]
    assert isolated["n"][0] == [0, "graphics-hardware", 160]
    assert isolated["task_forgetting"] == [0.0, 0.0, 0.0, 0.0, None]
    assert value["versions"][1]["parents"] == [
        {"ref": "newsgroups-s0.statistics@1", "role": "continued", "weight": None}
    ]


def test_aggregate_gives_mean_and_spread_over_seeds(store: AdapterStore, result: RunResult) -> None:
    other = collect(store, "newsgroups-s1")
    before = copy.deepcopy((result, other))
    rows = {(row.label, row.protocol, row.field): row.spread for row in aggregate([result, other])}
    values = [r.ways[2].protocols["all_classes"].summary.acc for r in (result, other)]
    got = rows["sequential", "all_classes", "acc"]
    assert got is not None
    assert (got.mean, got.n) == (pytest.approx(np.mean(values)), 2)
    assert got.std == pytest.approx(np.std(values, ddof=1))
    assert rows["joint", "task_aware", "bwt"] is None
    assert len(rows) == 5 * 2 * 6
    assert (result, other) == before


def test_aggregate_counts_only_runs_in_which_a_number_is_defined(result: RunResult) -> None:
    first = dataclasses.replace(result, run="a", ways=result.ways[2:4])
    second = dataclasses.replace(result, run="b", ways=result.ways[3:4])
    rows = {
        (row.label, row.field): row.spread
        for row in aggregate([first, second])
        if row.protocol == "all_classes"
    }
    sequential, isolated = rows["sequential", "acc"], rows["isolated", "acc"]
    assert sequential is not None
    assert isolated is not None
    assert (sequential.n, sequential.std) == (1, None)
    assert (isolated.n, isolated.std) == (2, 0.0)


def test_aggregate_refuses_what_cannot_be_averaged(result: RunResult) -> None:
    other = dataclasses.replace(result, run="other", tasks=result.tasks[:2])
    with pytest.raises(SpecError, match="there is no run to aggregate"):
        aggregate([])
    with pytest.raises(SpecError, match="run 'newsgroups-s0' is given twice"):
        aggregate([result, result])
    with pytest.raises(SpecError, match="runs 'newsgroups-s0' and 'other' have different tasks"):
        aggregate([result, other])


def test_aggregate_takes_runs_in_another_order_of_tasks(result: RunResult) -> None:
    other = dataclasses.replace(result, run="other", tasks=result.tasks[::-1])
    assert len(aggregate([result, other])) == 5 * 2 * 6
