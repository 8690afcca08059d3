"""``contpeft run`` and ``contpeft report``: what bad input gets, and what a report prints."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import Result

from contpeft.cli import progress
from contpeft.cli.run import _named
from contpeft.experiments.progress import Progress
from contpeft.spec import Score, Single, Task
from contpeft.store import AdapterStore

Call = Callable[..., Result]


@pytest.fixture
def scored(filled: AdapterStore) -> Path:
    """A run of two tasks: the first loses a quarter of its accuracy while the second is learnt."""
    tasks = [Task("one", ("a", "b")), Task("two", ("c", "d"))]
    filled.start_run("seq", config={"batch_size": 8}, seed=0, tasks=tasks, scenario="class-incremental")
    cells = {(0, "one"): 0.75, (1, "one"): 0.5, (1, "two"): 1.0}
    for step, task in enumerate(tasks):
        scores = [
            Score(
                "seq",
                "plain",
                "main",
                i,
                j,
                "all_classes",
                "accuracy",
                value,
                8,
                f"{i}{j}",
                "d",
                i > 0 and j == "one",
            )
            for (i, j), value in cells.items()
            if i == step
        ]
        filled.finish_step(
            "seq",
            "plain",
            step,
            task=task.name,
            answers={"main": Single("billing@1")},
            versions=["billing@1"],
            scores=scores,
            seconds=2.0,
        )
    filled.finish_run("seq", "finished")
    return filled.path


MATRIX = """
plain, all classes: accuracy in %; = copied, not measured again
  score on       one    two
  after one     75.0      -
  after two   = 50.0  100.0
  forgetting   +25.0      -
"""
COMPARISON = """
seq, all classes: accuracy in %
  way     ACC    BWT  forgetting  FWT    LA   AIA  seconds
  plain  75.0  -25.0       +25.0    -  87.5  75.0        4
"""


def test_a_report_prints_the_matrices_and_the_comparison(scored: Path, tmp_path: Path, call: Call) -> None:
    folder = tmp_path / "reports"
    done = call("report", "seq", "--store", str(scored), "--report", str(folder))
    assert done.exit_code == 0, done.stderr
    page = folder / "seq" / "report.html"
    assert done.stdout.replace("\u2013", "-") == f"{MATRIX}{COMPARISON}\nreport  {page}\n"
    assert page.read_text().startswith("<!DOCTYPE html>")


def test_a_report_of_no_run_names_the_nearest(scored: Path, tmp_path: Path, call: Call) -> None:
    done = call("report", "sequ", "--store", str(scored), "--report", str(tmp_path / "reports"))
    assert done.exit_code == 3
    assert done.stderr == f"error: no run 'sequ' in {scored}; did you mean 'seq'?\n"
    assert not (tmp_path / "reports").exists()


def test_a_report_without_a_store_makes_none(tmp_path: Path, call: Call) -> None:
    done = call("report", "seq", "--store", str(tmp_path / "nowhere"))
    assert done.exit_code == 3
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("nme: x", 2, "did you mean 'name'?"),
        ("name: [", 2, "is no YAML"),
        ("- x", 2, "holds list"),
    ],
)
def test_a_wrong_file_is_one_line_and_nothing_is_made(
    tmp_path: Path, call: Call, text: str, code: int, said: str
) -> None:
    file = tmp_path / "trial.yaml"
    file.write_text(text)
    done = call("run", str(file), "--store", str(tmp_path / "made"))
    assert done.exit_code == code
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "made").exists()


def test_a_missing_file_is_named(tmp_path: Path, call: Call) -> None:
    done = call("run", str(tmp_path / "trial.yaml"))
    assert done.exit_code == 3
    assert "no experiment file" in done.stderr


def test_another_seed_makes_another_run() -> None:
    quickstart = Path("experiments/quickstart.yaml")
    assert _named(quickstart, None, None) == {}
    assert _named(quickstart, "mine", None) == {"name": "mine"}
    assert _named(quickstart, None, 0) == {"name": "quickstart", "seed": 0}
    assert _named(quickstart, None, 3) == {"name": "quickstart-seed3", "seed": 3}
    assert _named(quickstart, "mine", 3) == {"name": "mine", "seed": 3}


def test_off_a_terminal_each_phase_is_a_line_with_steps_and_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([100.0, 110.0, 120.0, 130.0, 140.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    at = Progress("joint", 0, 1, "joint", "start", total=30)
    with progress.watching() as observer:
        observer(at)
        for done in (0, 5, 6):
            observer(Progress("joint", 0, 1, "joint", "train", 1 + done // 5, 2, done, 30, loss=0.5))
        observer(Progress("joint", 0, 1, "joint", "finished", done=30, total=30))
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "joint: joint (1 of 1), getting ready"
    assert said[1] == "joint: joint (1 of 1), training, epoch 1 of 2, loss 0.500 [0 of 30 steps]"
    left = timedelta(seconds=50)  # 5 steps took 10 s, 25 are left
    assert (
        said[2]
        == f"joint: joint (1 of 1), training, epoch 2 of 2, loss 0.500 [5 of 30 steps, about {left} left]"
    )
    assert said[3].startswith("joint: joint (1 of 1), done [30 of 30 steps")
    assert len(said) == 4
