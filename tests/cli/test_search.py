"""``contpeft search``: the table, the YAML to paste, and what cannot be asked."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from contpeft.cli import app

sys.path.append(str(Path(__file__).parents[1] / "experiments"))

from search_files import write_sequence

Call = Callable[..., Result]
ASKED = ("--methods", "lora,bitfit", "--targets", "usual", "--trials", "3")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment of two tiny tasks."""
    return write_sequence(tmp_path_factory.mktemp("search"))


@pytest.fixture
def search(file: Path) -> Call:
    return lambda *options: CliRunner().invoke(app, ["search", str(file), *options], env={"TERM": "dumb"})


def test_the_table_tells_each_trial_and_the_best_can_be_pasted(search: Call) -> None:
    done = search(*ASKED, "--budget", "50%")
    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "sequential, task_aware: accuracy in % on 16 held-out training rows of 2 tasks"
    told = json.loads(search(*ASKED, "--budget", "50%", "--json").stdout)
    trials = {trial["number"]: trial for trial in told["trials"]}
    titles = ["trial", "adapter", "rate", "mean", "trained", "share", "seconds", "ended"]
    assert lines[1].split() == titles
    for line in lines[2:5]:
        cells = line.split()
        trial = trials[int(cells[0])]
        assert cells[1] == trial["adapter"]["method"]
        mean, trained, share = f"{100 * trial['mean']:.1f}", f"{trial['trained']:,}", f"{trial['share']:.3%}"
        assert cells[-6:-1] == [f"{trial['rate']:g}", mean, trained, share, f"{trial['seconds']:.1f}"]
        assert cells[-1] == "finished"
    best = told["best"]
    assert lines[6] == f"trial {best['trial']} is the best; put into the experiment:"
    pasted = yaml.safe_load("\n".join(line.removeprefix("  ") for line in lines[7:]))
    assert pasted == {"adapter": best["adapter"], "module": best["module"]}
    said = [line for line in done.stderr.splitlines() if line.startswith("trial 2 of 3: bitfit, rate 0.01: ")]
    assert [line.split(" after ")[1] for line in said] == ["1 task", "2 tasks, finished"]


def test_time_that_is_up_is_told(search: Call) -> None:
    search(*ASKED)
    done = search(*ASKED[:-1], "5", "--timeout", "0s")
    assert done.exit_code == 0, done.stderr
    assert "3 of 5 trials in the time given; the same call goes on" in done.stdout.splitlines()


def test_the_rate_may_stay(search: Call) -> None:
    done = search("--methods", "bitfit", "--targets", "usual", "--trials", "1", "--rates", "keep")
    assert "rate" not in done.stdout.splitlines()[1].split()
    assert done.stdout.splitlines()[-1] == "  adapter: {method: bitfit}"


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--methods", ","), 2, "--methods names nothing; write --methods lora,ia3"),
        (("--methods", "lroa"), 2, "no adapter method 'lroa'"),
        (("--targets", "query"), 2, "--targets 'query' is unknown; write usual, all-linear, or both"),
        (("--rates", "high"), 2, "--rates 'high' are no learning rates; write 1e-4:1e-2, 1e-3 or keep"),
        (("--rates", "1e-2:1e-3"), 2, "learning rates from 0.01 to 0.001 are none"),
        (("--budget", "lots"), 2, "budget 'lots' cannot be meant"),
        (("--budget", "3"), 2, "a budget of 3 parameters holds no 'lora', the smallest that is tried trains"),
        (("--timeout", "soon"), 2, "'soon' is no duration"),
        (("--strategy", "frozen"), 2, "strategy 'frozen' trains no adapter"),
        (("--validation", "1"), 2, "validation is 1.0; it must lie between 0 and 1"),
    ],
)
def test_what_cannot_be_asked_is_one_line(
    search: Call, options: tuple[str, ...], code: int, said: str
) -> None:
    done = search(*options)
    assert (done.exit_code, done.stdout) == (code, "")
    assert done.stderr.splitlines()[-1].startswith(f"error: {said}")


def test_a_file_that_is_not_there() -> None:
    done = CliRunner().invoke(app, ["search", "nowhere.yaml"])
    assert done.exit_code == 3
    assert done.stderr.startswith("error: no experiment file 'nowhere.yaml'")
