"""``contpeft store calibrate``: what it prints, and that ``show`` tells it afterwards."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from contpeft.cli import app

sys.path.append(str(Path(__file__).parents[1] / "experiments"))

from evaluation_files import BOTH, copy_support, noisy, register

from contpeft.store import AdapterStore

Call = Callable[..., Result]


@pytest.fixture(scope="module")
def file(learnt_support: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a version that errs now and then, and its evaluation file."""
    path = copy_support(learnt_support, tmp_path_factory.mktemp("calibrate"))
    store = AdapterStore(path.parent / "adapters", create=False)
    register(store, "noisy", noisy(store.load(BOTH), 0.4), BOTH)
    store.close()
    return path


@pytest.fixture
def store(file: Path) -> Call:
    def run(*arguments: str) -> Result:
        told = {"CONTPEFT_STORE": str(file.parent / "adapters"), "TERM": "dumb"}
        return CliRunner().invoke(app, ["store", *arguments], env=told)

    return run


def test_a_version_is_calibrated_and_shown(store: Call, file: Path) -> None:
    done = store("calibrate", "noisy", "--eval", str(file))
    assert done.exit_code == 0, done.stderr
    titles, row, said = done.stdout.splitlines()
    assert titles.split() == [
        *("answers", "tasks", "temperature", "ece", "at", "temperature"),
        *("nll", "at", "temperature", "n"),
    ]
    told = json.loads(store("calibrate", "noisy", "--eval", str(file), "--json").stdout)
    (found,) = told
    assert row.split() == [
        *("noisy@1", "billing,", "travel", f"{found['temperature']:.3g}"),
        *(f"{found[name]:.4f}" for name in ("ece", "ece_scaled", "nll", "nll_scaled")),
        "16",
    ]
    sure = "too sure" if found["temperature"] > 1 else "not sure enough"
    assert said == f"noisy@1 was {sure} on the 16 rows the temperature was fitted on"
    shown = store("show", "noisy").stdout
    lines = [line.split()[1:] for line in shown.split("\ncalibration\n")[1].split("\n\n")[0].splitlines()]
    assert lines[1] == ["billing+travel", "all_classes", "temperature", f"{found['temperature']:.4f}", "16"]
    cells = json.loads(store("show", "noisy", "--json").stdout)["calibration"]
    names = ("temperature", "ece", "ece_scaled", "nll", "nll_scaled")
    assert {cell["metric"]: cell["value"] for cell in cells} == {name: found[name] for name in names}


def test_what_cannot_be_asked_is_one_line(store: Call, file: Path) -> None:
    done = store("calibrate", "noise", "--eval", str(file))
    assert done.exit_code == 3
    assert done.stderr.splitlines()[-1].startswith("error: no adapter 'noise'")
