"""Which stage of a way forgets: the table, on the terminal and on the page."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from contpeft.cli.run import _print_result
from contpeft.experiments.report import ProtocolResult, RunResult, WayResult, stage_table, write_report
from contpeft.metrics import Matrix, summarise, task_forgetting
from contpeft.spec import Task

GOLDEN = """
slao, task known: m in %
  score on        a     b
  after a      90.0     \u2013
  after b      80.0  70.0
  forgetting  +10.0     \u2013

slao: before-merge, task known: m in %
  score on        a     b
  after a      90.0     \u2013
  after b      20.0  80.0
  forgetting  +70.0     \u2013

newsgroups-s0, task known: m in %
  way                  ACC    BWT  forgetting  FWT    LA   AIA  seconds
  slao                75.0  -10.0       +10.0    \u2013  80.0  82.5        1
  slao: before-merge  50.0  -70.0       +70.0    \u2013  85.0  70.0        1

which stage forgets, task known: m in %
  way          stage   ACC    BWT  ACC gained  BWT gained
  slao  before merge  50.0  -70.0           \u2013           \u2013
  slao    at the end  75.0  -10.0       +25.0       +60.0
"""


def answer(way: str, name: str, *rows: tuple[float | None, ...], label: str | None = None) -> WayResult:
    m = Matrix(("a", "b"), rows)
    scored = ProtocolResult(m, summarise(m), task_forgetting(m), {}, {}, frozenset(), {})
    return WayResult(way, name, label or (way if name == "main" else f"{way}: {name}"),
                     {"task_aware": scored}, 1.0, ())  # fmt: skip


MERGED = answer("slao", "main", (0.9, None), (0.8, 0.7))
TRAINED = answer("slao", "before-merge", (0.9, None), (0.2, 0.8))
ALIGNED = answer("slca", "main", (0.9, None), (0.85, 0.9))
UNALIGNED = answer("slca", "before-alignment", (0.9, None), (0.8, 0.7))
UNMERGED = answer("slca", "before-merge", (0.9, None), (0.2, 0.8))


def run(result: RunResult, *ways: WayResult) -> RunResult:
    tasks = tuple(Task(name, ("x", "y"), "m") for name in "ab")
    return dataclasses.replace(result, tasks=tasks, ways=ways, lineage=())


def test_a_stage_stands_above_what_follows_it_and_gains_are_to_the_one_above(result: RunResult) -> None:
    ways = MERGED, TRAINED, ALIGNED, UNMERGED, UNALIGNED
    dash = "\u2013"
    assert stage_table(run(result, *ways), "task_aware") == (
        ["way", "stage", "ACC", "BWT", "ACC gained", "BWT gained"],
        [
            ["slao", "before merge", "50.0", "-70.0", dash, dash],
            ["slao", "at the end", "75.0", "-10.0", "+25.0", "+60.0"],
            ["slca", "before merge", "50.0", "-70.0", dash, dash],
            ["slca", "before alignment", "75.0", "-10.0", "+25.0", "+60.0"],
            ["slca", "at the end", "87.5", "-5.0", "+12.5", "+5.0"],
        ],
    )


@pytest.mark.parametrize(
    "ways",
    [
        (
            answer("frozen", "class-means", (0.9, None), (0.9, 0.9)),
            answer("frozen", "lda", (1.0, None), (1.0, 1.0)),
        ),
        (MERGED,),
        (TRAINED,),
    ],
    ids=["other answers", "no stage", "no main answer"],
)
def test_ways_without_stages_have_no_row(result: RunResult, ways: tuple[WayResult, ...]) -> None:
    assert stage_table(run(result, *ways), "task_aware").rows == []


def test_a_number_that_is_undefined_has_no_gain(result: RunResult) -> None:
    begun = answer("slao", "before-merge", (0.9, None), (None, None))
    rows = stage_table(run(result, MERGED, begun), "task_aware").rows
    assert [row[2:] for row in rows] == [["\u2013"] * 4, ["75.0", "-10.0", "\u2013", "\u2013"]]


def test_the_terminal_shows_matrices_before_and_after_and_then_the_stages(
    result: RunResult, capsys: pytest.CaptureFixture[str]
) -> None:
    _print_result(run(result, MERGED, TRAINED))
    assert capsys.readouterr().out == GOLDEN


def test_the_page_has_the_same_table(
    result: RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("accuracy_bars", "heat_map", "heat_map_grid", "lineage_picture", "task_curves"):
        monkeypatch.setattr(f"contpeft.experiments.report.page.{name}", lambda *_: b"\x89PNG" + b"\0" * 30)
    text = write_report(run(result, MERGED, TRAINED), tmp_path).read_text()
    assert '<section id="stages">' in text
    assert '<a href="#stages">Stages</a>' in text
    assert '<th scope="row">slao</th><td>before merge</td>' in text
    assert "stages" not in write_report(run(result, MERGED), tmp_path).read_text()
