"""The benchmarks' helpers: turns, ratios, and what is written down."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import _harness
import pytest
from _harness import compare, cpu_seconds, in_turn, peak_mebibytes, run_alone, save

import contpeft

PAIRS = [(3.0, 2.0), (1.0, 1.0), (8.0, 4.0)]


def test_both_sides_run_in_turn_and_change_who_goes_first() -> None:
    calls: list[str] = []

    def side(name: str, value: float) -> Callable[[], float]:
        def measure() -> float:
            calls.append(name)
            return value

        return measure

    assert in_turn(side("a", 1.0), side("b", 2.0), pairs=3) == [(1.0, 2.0)] * 3
    assert "".join(calls) == "abbaab"


def test_the_ratio_is_the_median_of_the_pairs() -> None:
    step = compare("step", ("ours", "PEFT"), iter(PAIRS), "ms")
    assert (step.ratio, step.spread, step.pairs) == (1.5, (1.0, 2.0), 3)
    assert step.values == (3.0, 2.0)


@pytest.mark.parametrize(
    ("goal", "line"),
    [
        (None, "step: ours 3 ms, PEFT 2 ms, ratio 1.500 x"),
        (1.5, "step: ours 3 ms, PEFT 2 ms, ratio 1.500 x (goal 1.5: met)"),
        (1.02, "step: ours 3 ms, PEFT 2 ms, ratio 1.500 x (goal 1.02: MISSED)"),
    ],
)
def test_a_comparison_is_one_line(goal: float | None, line: str) -> None:
    assert str(compare("step", ("ours", "PEFT"), PAIRS, "ms", goal)) == line


def test_cpu_seconds_count_work_and_not_waiting() -> None:
    import time

    assert cpu_seconds(lambda: time.sleep(0.2)) < 0.1
    assert cpu_seconds(lambda: sum(range(1_000_000))) > 0.001


def test_peak_memory_is_of_a_process_with_torch_or_without() -> None:
    assert 5 < peak_mebibytes() < 1_000_000


def test_a_script_runs_alone_and_prints_its_number_last(tmp_path: Path) -> None:
    script = tmp_path / "measure.py"
    script.write_text("import sys\nprint('a line')\nprint(float(sys.argv[1]) / 4)\n")
    assert run_alone(str(script), "10") == 2.5


def test_results_are_written_with_versions_and_facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_harness, "RESULTS", tmp_path / "results")
    step = compare("step", ("ours", "PEFT"), PAIRS, "ms", goal=1.6)
    path = save("callback", [step, replace(step, goal=1.0)], {"batch": [32, 32]})
    assert path == tmp_path / "results" / "callback.json"
    written = json.loads(path.read_text())
    assert set(written) == {"benchmark", "date", "versions", "facts", "comparisons"}
    assert written["versions"]["contpeft"] == contpeft.__version__
    assert written["facts"] == {"batch": [32, 32]}
    assert [(each["ratio"], each["goal"], each["met"]) for each in written["comparisons"]] == [
        (1.5, 1.6, True),
        (1.5, 1.0, False),
    ]
