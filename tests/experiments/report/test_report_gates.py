"""How far gates have moved: the table, on the terminal and on the page."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from contpeft.cli.run import _print_result
from contpeft.experiments.report import GateDrift, RunResult, WayResult, gate_table, write_report

DRIFT = {"a": GateDrift(0.25, 0.5), "b": GateDrift(0.0, 0.125)}
GOLDEN = """\
  way   task  gates moved  earlier adapters  later adapters
  sapt     a        0.750             0.250           0.500
  sapt     b        0.125             0.000           0.125
  sapt  mean        0.438             0.125           0.312
"""


def run(result: RunResult, **drifts: dict[str, GateDrift]) -> RunResult:
    ways = tuple(WayResult(way, "main", way, {}, 1.0, (), drift) for way, drift in drifts.items())
    return dataclasses.replace(result, ways=ways, lineage=())


def test_each_earlier_task_has_a_row_and_several_have_a_mean(result: RunResult) -> None:
    assert gate_table(run(result, plain={})).rows == []
    assert len(gate_table(run(result, plain={}, gated={"a": DRIFT["a"]})).rows) == 1


def test_the_terminal_tells_it_where_there_are_gates(
    result: RunResult, capsys: pytest.CaptureFixture[str]
) -> None:
    _print_result(run(result, plain={}))
    assert "gates" not in capsys.readouterr().out
    _print_result(run(result, plain={}, sapt=DRIFT))
    told = capsys.readouterr().out
    assert GOLDEN in told
    assert "how far gates have moved on rows of earlier tasks: sum over adapters of |weight now - " in told


def test_the_page_has_it_where_there_are_gates(result: RunResult, tmp_path: Path) -> None:
    page = write_report(run(result, plain={}), tmp_path / "without").read_text()
    assert 'id="gates"' not in page
    page = write_report(run(result, sapt=DRIFT), tmp_path / "with").read_text()
    assert 'id="gates"' in page
    assert page.index('<a href="#gates">') < page.index('<a href="#matrices">')
    assert "Sum over adapters of |weight now" in page
    assert "0.438" in page
