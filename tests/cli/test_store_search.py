"""``contpeft store fuse --eval``: the table of what was tried, what is stored, and what cannot be asked."""

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

from evaluation_files import BILLING, TRAVEL, copy_support

Call = Callable[..., Result]


@pytest.fixture(scope="module")
def file(learnt_support: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The evaluation file beside a store that has learnt support tickets."""
    return copy_support(learnt_support, tmp_path_factory.mktemp("search"))


@pytest.fixture
def fuse(file: Path) -> Call:
    def run(*options: str) -> Result:
        told = {"CONTPEFT_STORE": str(file.parent / "adapters"), "TERM": "dumb"}
        return CliRunner().invoke(app, ["store", "fuse", BILLING, TRAVEL, *options], env=told)

    return run


@pytest.fixture
def search(file: Path, fuse: Call) -> Call:
    return lambda *options: fuse("--eval", str(file), *options)


def names(file: Path) -> list[str]:
    store = AdapterStore(file.parent / "adapters")
    try:
        return store.names()
    finally:
        store.close()


def test_the_table_tells_each_merge_and_the_best_is_stored(search: Call, file: Path) -> None:
    done = search("--weights", "auto", "--rule", "auto", "--rank", "auto", "--trials", "7", "--name", "found")
    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "by themselves: accuracy in %"
    assert [line.split() for line in lines[1:4]] == [
        ["version", "billing", "travel"], ["#1", BILLING, "100.0", "-"], ["#2", TRAVEL, "-", "100.0"],
    ]  # fmt: skip
    assert lines[4].startswith("  no adapter, their heads ")
    assert lines[6] == "merged: accuracy in %; * no other is better in all that is searched for"
    head = ["trial", "rule", "weights", "rank", "billing", "travel", "mean", "worst"]
    assert lines[7].split() == [*head, "forgot", "#1", "forgot", "#2"]
    rows = [line.split() for line in lines[8:-2]]
    assert {row[1] for row in rows} == {"sum", "ties", "dare-ties", "knots", "tsv", "iso-c"}
    means = [float(row[6]) for row in rows]
    assert means == sorted(means, reverse=True)
    assert rows[0][0].endswith("*")
    assert lines[-1] == f"trial {rows[0][0].rstrip('*')} is found@1"
    assert len([line for line in done.stderr.splitlines() if line.startswith("merge ")]) == 7
    assert "found" in names(file)


def test_json_tells_of_all_and_a_dry_run_stores_nothing(search: Call, file: Path) -> None:
    done = search("--weights", "auto", "--trials", "3", "--name", "dry", "--dry-run", "--json")
    told = json.loads(done.stdout)
    assert told["version"] is None
    assert told["tasks"] == ["billing", "travel"]
    assert [trial["number"] for trial in told["trials"]] == [0, 1, 2]
    assert sum(trial["best"] for trial in told["trials"]) == 1
    assert {trial["rule"] for trial in told["trials"]} == {"sum"}
    first = told["trials"][0]
    assert first["forgotten"][BILLING] == told["parents"][0]["scores"][0] - first["scores"][0]
    assert "dry" not in names(file)


def test_lorahub_goes_by_the_loss(search: Call) -> None:
    done = search("--preset", "lorahub", "--trials", "4", "--name", "hub")
    assert done.exit_code in (0, 1), done.stderr
    if done.exit_code:
        assert done.stderr.splitlines()[-1].startswith("error: no weights were better than none")
    else:
        assert "loss" in done.stdout.splitlines()[7].split()
    assert "merge 1 of 4: sum, weights 0,0, rank full: mean" in done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--eval", "FILE", "--name", "x"), "nothing is to be searched; say --weights auto, --rule auto or"),
        (("--rule", "auto", "--name", "x"), "auto, --preset, --rows and --head are of a search; say what is"),
        (
            ("--preset", "lorahub", "--name", "x"),
            "auto, --preset, --rows and --head are of a search; say what",
        ),
        (
            ("--eval", "FILE", "--rule", "auto", "--into", "x"),
            "--into takes versions in one by one; a merge is",
        ),
        (
            ("--eval", "FILE", "--preset", "lorahub", "--rule", "tsv", "--name", "x"),
            "--preset lorahub says rule,",
        ),
        (
            ("--eval", "FILE", "--rule", "auto", "--set", "density=0.5", "--name", "x"),
            "parameters are of one rule; name it in place of 'auto'",
        ),
        (
            ("--eval", "FILE", "--rule", "auto", "--weights", "1", "--name", "x"),
            "there are 1 weights for 2 versions",
        ),
    ],
)
def test_what_cannot_be_asked_is_one_line(
    fuse: Call, file: Path, options: tuple[str, ...], said: str
) -> None:
    done = fuse(*(str(file) if option == "FILE" else option for option in options))
    assert done.exit_code == 2, done.output
    assert done.stderr.splitlines()[-1].startswith(f"error: {said}")
    assert done.stdout == ""
