"""``contpeft data`` tells what can be fetched and what is here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from contpeft.experiments.archives import ARCHIVES

Call = Callable[..., Result]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_what_is_here_is_told(call: Call, cache: Path) -> None:
    here = cache / "contpeft" / "fetched" / f"vader-{ARCHIVES['vader'].sha256[:12]}"
    here.mkdir(parents=True)
    listed = call("data", "list")
    assert listed.exit_code == 0, listed.output
    lines = [line.split()[:2] for line in listed.stdout.splitlines()[1:]]
    assert lines == [
        *(["dinov2", "no"], ["fashion-mnist", "no"], ["smollm2", "no"], ["vader", "yes"], ["wordnet", "no"])
    ]
    told = {row["name"]: row for row in json.loads(call("data", "list", "--json").stdout)}
    assert told["vader"]["folder"] == str(here)
    assert told["wordnet"] == {
        "name": "wordnet", "kind": "data", "here": False, "folder": None, "package": "wordnet-base 1:3.0-37",
        "told": "WordNet 3.0, glosses of 82,115 nouns (WordNet licence)",
    }  # fmt: skip
    assert call("data", "fetch", "vader").stdout == f"vader: {here}\n"


def test_a_name_that_is_none_is_one_line(call: Call) -> None:
    ran = call("data", "fetch", "vadr")
    assert (ran.exit_code, ran.stderr) == (3, "error: no data or model 'vadr'; did you mean 'vader'?\n")
