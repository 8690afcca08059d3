"""``contpeft store attention`` and ``prune-fusion``: what they tell, what they store and write."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_helpers import lines, told
from safetensors import safe_open
from typer.testing import CliRunner, Result

from contpeft.cli import app
from contpeft.store import AdapterStore

sys.path.append(str(Path(__file__).parents[1] / "experiments"))

from evaluation_files import BILLING, copy_support
from fusion_files import OVER, add_fusion

Call = Callable[..., Result]
SITES = [f"encoder.layer.0.attention.self.{part}" for part in ("query", "value")]


@pytest.fixture(scope="module")
def learnt(learnt_support: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The evaluation file of a store with a fusion over three adapters."""
    file = copy_support(learnt_support, tmp_path_factory.mktemp("attention"))
    store = AdapterStore(file.parent / "adapters")
    add_fusion(store)
    store.close()
    return file


@pytest.fixture
def ask(learnt: Path) -> Call:
    def run(command: str, *options: str) -> Result:
        asked = ["store", command, *options, "--eval", str(learnt)]
        environment = {"CONTPEFT_STORE": str(learnt.parent / "adapters"), "TERM": "dumb"}
        return CliRunner().invoke(app, asked, env=environment)

    return run


def shares(row: str) -> list[float]:
    return [float(cell.rstrip("%")) for cell in row.split()[1:]]


def test_attention_is_told_by_site_and_by_task(ask: Call) -> None:
    shown = lines(told(ask("attention", "all"))[0])
    assert [row.split()[0] if row else "" for row in shown] == [
        *("site", *SITES, ""),
        *("task", "billing", "travel"),
    ]
    assert shown[0].split()[1:] == list(OVER)
    for row in (*shown[1:3], *shown[5:]):
        assert sum(shares(row)) == pytest.approx(100, abs=0.2)
    found = json.loads(told(ask("attention", "all@1", "--json"))[0])
    assert (found["ref"], found["members"], found["sites"]) == ("all@1", list(OVER), SITES)
    assert [100 * mean for mean in found["means"][0]] == pytest.approx(shares(shown[1]), abs=0.051)
    assert [(task["task"], task["rows"]) for task in found["tasks"]] == [("billing", 16), ("travel", 16)]


def test_attention_is_drawn_and_written_token_by_token(ask: Call, tmp_path: Path) -> None:
    drawn, maps = tmp_path / "a.png", tmp_path / "maps.safetensors"
    told(ask("attention", "all", "--rows", "4", "--plot", str(drawn), "--tokens", str(maps)))
    assert drawn.read_bytes().startswith(b"\x89PNG")
    with safe_open(maps, "pt") as written:
        assert written.metadata() == {"members": " ".join(OVER)}
        assert set(written.keys()) == {f"{task}/{site}" for task in ("billing", "travel") for site in SITES}
        rows, _, members = written.get_tensor(f"billing/{SITES[0]}").shape
    assert (rows, members) == (4, 3)


def test_what_cannot_be_shown_or_written_is_one_line(ask: Call, tmp_path: Path) -> None:
    refused = ask("attention", BILLING)
    assert refused.exit_code == 2
    assert refused.stderr.splitlines()[-1] == (
        f"error: {BILLING} is of kind 'lora'; only fusions attend to members"
    )
    refused = ask("attention", "all", "--plot", "a.jpg")
    assert refused.stderr == "error: 'a.jpg' is no name for what is written there; name a .png file\n"
    refused = ask("attention", "all", "--plot", str(tmp_path / "none" / "a.png"))
    assert refused.stderr.splitlines()[-1].endswith(
        "No such file or directory; name a file in a folder that is there"
    )


def test_a_dry_run_tells_what_is_kept_and_stores_nothing(ask: Call, learnt: Path) -> None:
    shown = lines(told(ask("prune-fusion", "all", "--keep", "2", "--dry-run"))[0])
    assert shown[0].split() == ["member", "attention", "kept", "at"]
    assert [row.split()[0] for row in shown[1:4]] == list(OVER)
    assert sum(int(row.split()[2]) for row in shown[1:4]) == 4
    assert all(row.endswith(" of 2 sites") for row in shown[1:4])
    assert shown[5].startswith("accuracy  ")
    store = AdapterStore(learnt.parent / "adapters")
    assert [version.ref for version in store.versions() if version.kind == "fusion"] == ["all@1"]
    store.close()


def test_a_pruned_fusion_is_a_version_of_its_own(ask: Call, learnt: Path) -> None:
    shown, said = told(ask("prune-fusion", "all", "--keep", "1", "--name", "small", "--json"))
    found = json.loads(shown)
    assert said.splitlines()[-1] == "stored small@1; undo: contpeft store rm small@1"
    assert (found["stored"], found["ref"], found["keep"]) == ("small@1", "all@1", 1)
    assert found["measured"]["tasks"] == 2
    store = AdapterStore(learnt.parent / "adapters")
    stored = store.show("small@1")
    assert [entry["ref"] for entry in stored.config["over"]] == found["members"]
    assert [parent.ref for parent in stored.parents] == ["all@1", *found["members"]]
    store.close()
    told(ask("attention", "small"))


def test_nothing_is_stored_if_accuracy_is_lost_or_nothing_is_pruned(ask: Call) -> None:
    with pytest.MonkeyPatch.context() as patch:
        scores = iter([0.9, 0.8])
        patch.setattr("contpeft.experiments.pruning.fmean", lambda _: next(scores))
        refused = ask("prune-fusion", "all", "--keep", "2", "--max-forgetting", "0.05")
    assert refused.exit_code == 1
    assert refused.stderr.splitlines()[-1] == (
        "error: all@1 with 2 members a site has 80.0% instead of 90.0%, and 5.0% may be lost; "
        "nothing is stored: keep more"
    )
    refused = ask("prune-fusion", "all", "--keep", "3")
    assert refused.stderr.splitlines()[-1] == "error: keeping 3 of 3 members prunes nothing"
    assert refused.exit_code == 2
