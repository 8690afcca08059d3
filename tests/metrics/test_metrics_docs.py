"""docs/metrics.md says what the code says and what the code computes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from contpeft.metrics import DEFINITIONS, Matrix, summarise

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "metrics.md").read_text()
EXAMPLE = PAGE.partition("## A worked example")[2]


def test_the_page_has_every_definition_word_for_word() -> None:
    rows = [f"| {d.symbol} | {d.name} | `{d.formula}` | {d.undefined} | {d.source} |" for d in DEFINITIONS]
    assert [row for row in rows if row not in PAGE] == []


def test_the_table_of_the_worked_example_gives_the_numbers_below_it() -> None:
    lines = re.findall(r"^\| (\w+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", EXAMPLE, re.M)
    matrix = Matrix(tuple(name for name, *_ in lines), tuple(tuple(map(float, row)) for _, *row in lines))
    summary = summarise(matrix, base={"chat": 0.25, "sms": 0.30}).to_json()
    shown = {
        symbol: float(value) for symbol, value in re.findall(r"^- (\w+) = .* = (-?[\d.]+)\b", EXAMPLE, re.M)
    }
    assert shown == {d.symbol: pytest.approx(summary[d.field], abs=0.0005) for d in DEFINITIONS}


def test_the_sums_of_the_worked_example_come_out() -> None:
    sums = re.findall(r"^- \w+ = ([\d.+\-/() ]+) = (-?[\d.]+)\b", EXAMPLE, re.M)
    assert len(sums) == len(DEFINITIONS)
    assert [float(result) for _, result in sums] == pytest.approx(
        [eval(text) for text, _ in sums], abs=0.0005
    )
