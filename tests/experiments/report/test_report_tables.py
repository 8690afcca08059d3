from __future__ import annotations

import dataclasses

import pytest

from contpeft.experiments.report import (
    ProtocolResult,
    RunResult,
    WayResult,
    aggregate,
    aggregate_table,
    collect,
    comparison_table,
    lineage_table,
    matrix_table,
)
from contpeft.experiments.report.scale import Scale, scale_of
from contpeft.experiments.report.tables import best_cells
from contpeft.metrics import Matrix, summarise, task_forgetting
from contpeft.spec import Parent, Task
from contpeft.store import AdapterStore


def way(label: str, *rows: tuple[float | None, ...], lower: bool = False) -> WayResult:
    m = Matrix(("a", "b"), rows)
    summary = summarise(m, base={"b": 0.25}, start={"b": 0.5}, lower_is_better=lower)
    lost = task_forgetting(m.negated() if lower else m)
    scored = ProtocolResult(m, summary, lost, {}, {}, frozenset({(1, "a")}), {})
    return WayResult(label, "main", label, {"task_aware": scored}, 90.4, ())


def run(result: RunResult, *ways: WayResult, lower: bool = False) -> RunResult:
    tasks = tuple(Task(name, ("x", "y"), "m", lower) for name in "ab")
    return dataclasses.replace(result, tasks=tasks, ways=ways, lineage=())


def test_comparison_table_of_a_run(result: RunResult) -> None:
    header, rows = comparison_table(result, "all_classes")
    assert header == ["way", "ACC", "BWT", "forgetting", "FWT", "LA", "AIA", "seconds"]
    assert rows == [
        ["frozen: class-means (bound)", "78.8", "-8.6", "+8.6", "\u2013", "85.6", "83.4", "22"],
        ["frozen: lda (bound)", "80.0", "-9.4", "+9.4", "\u2013", "87.5", "85.0", "22"],
        ["sequential", "24.2", "-88.4", "+88.4", "\u2013", "95.0", "50.4", "190"],
        ["isolated", "80.5", "-11.4", "+11.4", "\u2013", "89.6", "86.3", "198"],
        ["joint", "79.6", *["\u2013"] * 5, "186"],
    ]


def test_matrix_table_marks_copied_cells_and_ends_with_forgetting(result: RunResult) -> None:
    isolated = next(way for way in result.ways if way.label == "isolated")
    header, rows = matrix_table(result, isolated, "task_aware")
    dash = "\u2013"
    assert header == ["score on", *(task.name for task in result.tasks)]
    assert rows[0] == ["after graphics-hardware", "96.2", dash, dash, dash, dash]
    assert rows[2] == ["after crypt-space", "= 96.2", "= 93.8", "95.0", dash, dash]
    assert rows[5] == ["forgetting", "0.0", "0.0", "0.0", "0.0", dash]
    assert len(rows) == 6


def test_lineage_table_names_parents_and_digests(result: RunResult) -> None:
    first = dataclasses.replace(
        result.lineage[5], parents=(Parent("x@1", "fused"), Parent("y@2", "frozen")), parameters=147_456
    )
    header, rows = lineage_table(dataclasses.replace(result, lineage=(first, result.lineage[0])))
    assert header == ["version", "way", "after", "kind", "made from", "parameters", "digest"]
    assert rows[0][:6] == [
        "newsgroups-s0.sequential@1",
        "sequential",
        "graphics-hardware",
        "lora",
        "x@1 (fused), y@2 (frozen)",
        "147,456",
    ]
    assert rows[0][6] == first.fingerprint[:12]
    assert rows[1][4] == "\u2013"


def test_aggregate_table_shows_spread_and_a_smaller_n(store: AdapterStore, result: RunResult) -> None:
    short = dataclasses.replace(collect(store, "newsgroups-s1"), ways=result.ways[3:])
    results = [result, short]
    header, rows = aggregate_table(results, aggregate(results), "task_aware")
    assert header == ["way", "ACC", "BWT", "forgetting", "FWT", "LA", "AIA"]
    table = {row[0]: row[1:] for row in rows}
    assert table["isolated"][0] == "93.6 \u00b1 0.0"
    assert table["isolated"][3] == "+6.1 \u00b1 0.0"
    assert table["sequential"][1] == "-10.5 (n=1)"
    assert table["joint"][4] == "\u2013"


def test_bold_is_the_best_rival_of_each_column(result: RunResult) -> None:
    ways = (
        way("frozen", (1.0, None), (1.0, 1.0)),
        way("forgets", (0.9, None), (0.5, 0.9)),
        way("keeps", (0.8, None), (0.8, 0.85)),
        way("joint", (None, None), (1.0, 1.0)),
    )
    # ACC, BWT, forgetting and AIA go to the one that keeps, LA to the other, FWT to both.
    want = {*(("keeps", k) for k in (0, 1, 2, 3, 5)), ("forgets", 3), ("forgets", 4)}
    assert best_cells(run(result, *ways), "task_aware") == want


def test_nobody_is_best_alone(result: RunResult) -> None:
    ways = way("frozen", (1.0, None), (1.0, 1.0)), way("keeps", (0.8, None), (0.8, 0.85))
    assert best_cells(run(result, *ways), "task_aware") == frozenset()


def test_bold_follows_the_metric(result: RunResult) -> None:
    ways = (way("low", (2.0, None), (3.0, 2.0), lower=True), way("high", (4.0, None), (4.0, 4.0), lower=True))
    best = best_cells(run(result, *ways, lower=True), "task_aware")
    assert {("low", 0), ("high", 1), ("high", 2), ("low", 4), ("low", 5)} <= best
    assert ("high", 0) not in best


@pytest.mark.parametrize(
    ("values", "lower", "want"),
    [
        ((0.2, 0.9), False, Scale(True, 0.0, 1.0, False)),
        ((-0.3, 0.9), False, Scale(True, -0.3, 1.0, False)),
        ((0.2, 0.9), True, Scale(False, 0.2, 0.9, True)),
        ((12.0, 30.0), False, Scale(False, 12.0, 30.0, False)),
        ((7.0, 7.0), False, Scale(False, 7.0, 8.0, False)),
    ],
)
def test_scale_follows_the_scores(
    result: RunResult, values: tuple[float, float], lower: bool, want: Scale
) -> None:
    low, high = values
    ways = [way("w", (high, None), (low, high), lower=lower)]
    assert scale_of(run(result, *ways, lower=lower)) == want


def test_a_run_without_scores_has_the_scale_of_shares(result: RunResult) -> None:
    assert scale_of(run(result)) == Scale(True, 0.0, 1.0, False)


@pytest.mark.parametrize(
    ("value", "signed", "percent", "want"),
    [
        (0.9375, False, True, "93.8"),
        (0.125, True, True, "+12.5"),
        (-0.125, True, True, "-12.5"),
        (0.0, True, True, "0.0"),
        (-0.0004, True, True, "0.0"),
        (0.0004, True, True, "0.0"),
        (None, True, True, "\u2013"),
        (1234.5, False, False, "1.23e+03"),
        (2.5, True, False, "+2.5"),
        (-0.0, True, False, "0"),
    ],
)
def test_text_of_scores_and_differences(value: float | None, signed: bool, percent: bool, want: str) -> None:
    assert Scale(percent, 0.0, 1.0, False).text(value, signed=signed) == want


def test_goodness_runs_from_the_worst_to_the_best_score() -> None:
    up, down = Scale(True, 0.0, 1.0, False), Scale(False, 2.0, 6.0, True)
    assert [up.goodness(v) for v in (0.0, 0.25, 1.0, 1.5, -1.0)] == [0.0, 0.25, 1.0, 1.0, 0.0]
    assert [down.goodness(v) for v in (2.0, 3.0, 6.0)] == [1.0, 0.75, 0.0]


def test_scores_in_their_own_unit_are_not_turned_into_percent(result: RunResult) -> None:
    got = run(result, way("w", (20.0, None), (26.0, 30.0), lower=True), lower=True)
    assert comparison_table(got, "task_aware").rows == [["w", "28", "-6", "+6", "-0.25", "25", "24", "90"]]
    assert matrix_table(got, got.ways[0], "task_aware").rows[1] == ["after b", "= 26", "30"]
