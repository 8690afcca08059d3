"""``contpeft store gate``: what it prints, and the exit code a pipeline goes by."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from contpeft.cli import app
from contpeft.store import AdapterStore

sys.path.append(str(Path(__file__).parents[1] / "experiments"))

from evaluation_files import BILLING, BOTH, copy_support, headless, noisy, register, without_class

Call = Callable[..., Result]

REPORT = f"""\
deaf@1 against {BOTH}, task known: accuracy in %
  task      n  champion  candidate  difference  95 % interval      p
  billing  16     100.0       50.0       -50.0  -72.0 to -21.0  0.004
  travel   16     100.0      100.0        +0.0  -19.4 to +19.4  1.000
  mean     32     100.0       75.0       -25.0  -39.7 to -7.5   0.004

slices that lost more than 1 (p corrected for 2 slices):
  slice          n  champion  candidate  difference      p
  channel=mail   8     100.0        0.0      -100.0  0.008

rows that turned wrong: 8
"""


@pytest.fixture(scope="module")
def file(learnt_support: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that has learnt support tickets, with a version that is deaf to refunds, and its file."""
    path = copy_support(learnt_support, tmp_path_factory.mktemp("gate"))
    store = AdapterStore(path.parent / "adapters", create=False)
    register(store, "deaf", without_class(store.load(BOTH), "refund"), BOTH)
    register(store, "noisy", noisy(store.load(BOTH), 0.4), BOTH)
    register(store, "bare", headless(store.load(BILLING)), BILLING)
    store.close()
    return path


@pytest.fixture
def gate(file: Path) -> Call:
    def run(candidate: str, *options: str) -> Result:
        asked = ["store", "gate", candidate, "--against", BOTH, "--eval", str(file), *options]
        told = {"CONTPEFT_STORE": str(file.parent / "adapters"), "TERM": "dumb"}
        return CliRunner().invoke(app, asked, env=told)

    return run


def test_a_pass_is_one_line_and_exit_code_0(gate: Call) -> None:
    done = gate(BOTH)
    assert done.exit_code == 0, done.output
    assert done.stdout == (
        f"passed: {BOTH} against {BOTH} has 100.0 % (was 100.0 %, +0.0) on the mean of 2 tasks\n"
    )


def test_a_failure_is_the_whole_report_and_exit_code_1(gate: Call) -> None:
    done = gate("deaf", "--slice", "channel")
    assert done.exit_code == 1, done.output
    told = [line.split() for line in done.stdout.splitlines()]
    assert told[: len(REPORT.splitlines())] == [line.split() for line in REPORT.splitlines()]
    rows = done.stdout.splitlines()[len(REPORT.splitlines()) :]
    assert rows[0].split() == ["row", "task", "label", "answered", "input"]
    assert all("billing  refund  invoice" in row for row in rows[1:9])
    assert rows[9:] == ["", "failed: the mean over tasks lost 25.0, 1.0 may be lost"]


def test_what_is_allowed_is_an_option(gate: Call) -> None:
    assert gate("deaf", "--max-forgetting", "0.25").exit_code == 0
    done = gate("deaf", "--max-forgetting", "0.25", "--per-task")
    assert done.exit_code == 1
    assert done.stdout.endswith(
        "failed: task billing lost 50.0, 25.0 may be lost (cannot be told from chance with n=16 rows)\n"
    )


def test_json_is_printed_pass_or_fail(gate: Call) -> None:
    for candidate, code in {BOTH: 0, "deaf": 1}.items():
        done = gate(candidate, "--json", "--rows", "6", "--protocol", "all_classes")
        assert done.exit_code == code
        told = json.loads(done.stdout)
        assert (told["passed"], told["protocol"]) == (code == 0, "all_classes")
        assert [task["n"] for task in told["tasks"]] == [6, 6]


def test_whose_head_answers_is_asked_for_and_shown(gate: Call) -> None:
    done = gate("bare", "--max-forgetting", "0", "--per-task")
    assert done.exit_code == 2
    assert done.stderr.splitlines()[-1].endswith("give --head travel=REF")
    done = gate("bare", "--head", "travel=deaf", "--head", f"billing={BILLING}", "--max-forgetting", "0")
    assert done.exit_code in (0, 1)
    if done.exit_code:
        assert f"  bare@1 answers with the heads of {BILLING}, deaf@1\n" in done.stdout


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--head", "travel"), 2, "error: --head 'travel' is no TASK=REF; write --head billing=billing@3"),
        (
            ("--head", "travle=deaf"),
            2,
            "error: --head names the task 'travle', which is not evaluated; did you",
        ),
        (("--slice", "chanel"), 2, "error: no row has a column 'chanel'; did you mean 'channel'?"),
        (("--against", "nobody"), 3, "error: no adapter 'nobody'"),
    ],
)
def test_a_mistake_is_one_line(gate: Call, options: tuple[str, ...], code: int, said: str) -> None:
    done = gate("deaf", *options)
    assert done.exit_code == code
    assert done.stderr.splitlines()[-1].startswith(said)
    assert done.stdout == ""


def test_a_repair_is_stored_under_the_candidates_name_and_passes(
    file: Path, gate: Call, tmp_path: Path
) -> None:
    done = gate("noisy", "--max-forgetting", "0.05", "--repair")
    assert done.exit_code == 0, done.output
    repaired, verdict = done.stdout.splitlines()[-2:]
    assert repaired.startswith("repaired: noisy@2 is 0.")
    assert repaired.endswith(f" of the way from {BOTH} to noisy@1")
    assert verdict.startswith(f"passed: noisy@2 against {BOTH} has ")
    again = json.loads(
        gate("noisy@1", "--max-forgetting", "0.05", "--repair", "--name", "mended", "--json").stdout
    )
    assert (again["passed"], again["repaired"]["passed"], again["repaired"]["ref"]) == (
        False,
        True,
        "mended@1",
    )
    assert gate("mended", "--max-forgetting", "0.05").exit_code == 0


def test_without_a_repair_nothing_is_stored(file: Path, gate: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("contpeft.experiments.repair.passes", lambda *_: False)
    done = gate("deaf", "--repair", "--name", "nothing")
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1] == (
        "not repaired: no share of the change from 0.1 to 0.9 passes; nothing was stored"
    )
    assert "nothing" not in AdapterStore(file.parent / "adapters").names()


def test_a_name_is_of_a_repair(gate: Call) -> None:
    done = gate("deaf", "--name", "mended")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == "error: --name says what a repaired version is called; give --repair too\n"
