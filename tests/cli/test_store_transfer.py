"""``contpeft store bundle``, ``unbundle``, ``push``, ``pull`` and ``remote``, word for word."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_helpers import BASE, completed, lines, printed, state, told
from typer.testing import Result

from contpeft.store import AdapterStore

Call = Callable[..., Result]


def answer(result: Result) -> str:
    return told(result)[0]


@pytest.fixture
def hub(call: Call, tmp_path: Path) -> Path:
    told(call("store", "remote", "add", "team", str(tmp_path / "hub")))
    return tmp_path / "hub"


def test_bundle_and_unbundle(call: Call, tmp_path: Path) -> None:
    file, fresh = str(tmp_path / "both.tar"), str(tmp_path / "fresh")
    out, err = told(call("store", "bundle", file, "both"))
    assert out == "billing@1\nbilling@2\nboth@1\n"
    size = Path(file).stat().st_size / 1000
    assert err.splitlines() == [
        f"{file}: 3 versions, {size:.1f} kB",
        f"take it in: contpeft store unbundle {file} --store DIR",
    ]
    out, err = told(call("store", "unbundle", file, "--store", fresh))
    assert (out, err) == (
        "billing@1\nbilling@2\nboth@1\n",
        f"took 3 versions, 2 scores, 0 aliases from {file}\n",
    )
    out, err = told(call("store", "unbundle", file, "--store", fresh, "--dry-run", "--json"))
    assert json.loads(out) == {
        "versions": [],
        "renamed": {},
        "runs": [],
        "scores": 0,
        "aliases": [],
        "conflicts": [],
        "healed": [],
        "dry_run": True,
    }
    assert err == f"would take 0 versions, 0 scores, 0 aliases from {file}\n"
    made = json.loads(answer(call("store", "bundle", str(tmp_path / "all.tar"), "--json")))
    assert made["versions"] == ["billing@1", "billing@2", "both@1", "mail@1"]


def test_a_dry_run_makes_no_store(call: Call, tmp_path: Path) -> None:
    answer(call("store", "bundle", str(tmp_path / "x.tar")))
    refused = call("store", "unbundle", str(tmp_path / "x.tar"), "--store", str(tmp_path / "no"), "--dry-run")
    assert refused.exit_code == 3
    assert not (tmp_path / "no").exists()


def test_remotes(call: Call, tmp_path: Path) -> None:
    url = str(tmp_path / "hub")
    _, err = told(call("store", "remote", "add", "team", url))
    assert err == f"team is {url}; undo: contpeft store remote rm team\n"
    assert lines(printed(call("store", "remote", "list"))) == ["name  url", f"team  {url}"]
    assert json.loads(printed(call("store", "remote", "list", "--json"))) == [{"name": "team", "url": url}]
    refused = call("store", "push", "teem")
    assert (refused.exit_code, refused.stdout) == (3, "")
    assert "did you mean 'team'?; add it: contpeft store remote add NAME URL\n" in refused.stderr
    _, err = told(call("store", "remote", "rm", "team"))
    assert err == f"team is gone; undo: contpeft store remote add team {url}\n"
    assert printed(call("store", "remote", "list", "--json")) == "[]\n"


def test_push_and_pull(call: Call, filled: AdapterStore, hub: Path, tmp_path: Path) -> None:
    out, err = told(call("store", "push", "team", "billing@1", "--dry-run"))
    assert (out, err) == ("billing@1\n", "would send team 1 records, 1 files, 280 bytes\n")
    assert not hub.exists()
    out, err = told(call("store", "push", "team"))
    assert out == "billing@1\nbilling@2\nboth@1\nmail@1\n"
    size = sum(version.bytes for version in filled.versions()) / 1000
    assert err == f"sent team 5 records, 4 files, {size:.1f} kB\n"
    assert told(call("store", "push", "team")) == ("", "sent team 0 records, 0 files, 0 bytes\n")

    other = AdapterStore(tmp_path / "other")
    other.register("billing", state(9), base=BASE)
    other.tags.set("billing", {"owner": "bob"})
    other.aliases.set("billing", "champion")
    other.transfer.add_remote("team", str(hub))
    other.transfer.push("team")
    filled.register("billing", state(8), base=BASE)
    filled.aliases.set("billing@1", "champion")
    out, err = told(call("store", "pull", "team"))
    (here,) = out.splitlines()
    assert here.startswith("billing.")
    assert err.splitlines() == [
        f"billing@1 of team is {here} here: that name and number mean another version",
        f"conflict: billing@champion is {here} here and billing@1 in team; kept",
        "took 1 versions, 0 scores, 0 aliases from team",
    ]
    assert json.loads(answer(call("store", "tag", here, "--json")))["tags"] == {"owner": "bob"}
    other.close()


def test_remotes_are_completed(hub: Path, filled: AdapterStore) -> None:
    assert completed(filled.path, "contpeft store push t") == ["team"]
    assert completed(filled.path, "contpeft store pull x") == []
