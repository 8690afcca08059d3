"""``contpeft store compress``: what it tells, and what it stores."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cli_helpers import BASE, lines, printed, told
from typer.testing import CliRunner, Result

from contpeft.cli import app
from contpeft.spec import AdapterState
from contpeft.store import AdapterStore

sys.path.append(str(Path(__file__).parents[1] / "experiments"))

from evaluation_files import BILLING, TRAVEL, copy_support

Call = Callable[..., Result]
CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q"]}
REFS = ("one@1", "two@1", "three@1")


@pytest.fixture
def alike(filled: AdapterStore) -> AdapterStore:
    """Beside the others: one@1, two@1 and three@1 in the same two directions of each side."""
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(50, 2, generator=generator), torch.randn(2, 50, generator=generator)
    for name in ("one", "two", "three"):
        b, a = (left @ torch.randn(2, 2, generator=generator), torch.randn(2, 2, generator=generator) @ right)
        tensors = {"base_model.model.q.lora_A.weight": a, "base_model.model.q.lora_B.weight": b}
        filled.register(name, AdapterState("lora", CONFIG, tensors), base=BASE)
    return filled


def test_a_dry_run_tells_error_and_bytes_and_stores_nothing(alike: AdapterStore, call: Call) -> None:
    count = len(alike.versions())
    assert lines(printed(call("store", "compress", *REFS, "--budget", "50%", "--dry-run"))) == [
        "version  error  rank     before     after",
        "one@1    0.00%     2  800 bytes  32 bytes",
        "two@1    0.00%     2  800 bytes  32 bytes",
        "three@1  0.00%     2  800 bytes  32 bytes",
        "",
        "before   2.4 kB",
        "after    896 bytes (37.3%), of which the basis 800 bytes",
        "modules  1, with 4 directions together",
    ]
    found = json.loads(printed(call("store", "compress", *REFS, "--budget", "900", "--dry-run", "--json")))
    assert (found["before"], found["after"], found["budget"]) == (2400, 896, 900)
    assert found["modules"] == {"q": [2, 2]}
    assert len(alike.versions()) == count


def test_versions_are_stored_and_the_next_steps_told(alike: AdapterStore, call: Call) -> None:
    shown, said = told(call("store", "compress", *REFS, "--budget", "50%", "--max-error", "1%"))
    assert lines(shown)[1] == "one@1    0.00%     2  800 bytes  32 bytes"
    assert said.splitlines() == [
        "stored one@2 two@2 three@2 on shared-basis@1; undo: contpeft store rm one@2 two@2 three@2 "
        "shared-basis@1",
        "to free the bytes, once they have proved themselves: "
        "contpeft store rm one@1 two@1 three@1; contpeft store gc",
    ]
    torch.testing.assert_close(
        alike.load("one@2").tensors["base_model.model.q.lora_B.weight"]
        @ alike.load("one@2").tensors["base_model.model.q.lora_A.weight"],
        alike.load("one@1").tensors["base_model.model.q.lora_B.weight"]
        @ alike.load("one@1").tensors["base_model.model.q.lora_A.weight"],
        rtol=1e-4,
        atol=1e-4,
    )
    shown, _ = told(call("store", "compress", *REFS, "--budget", "50%", "--basis", "common", "--json"))
    assert json.loads(shown)["stored"] == {"basis": "common@1", "refs": ["one@3", "two@3", "three@3"]}


def test_modules_without_room_are_told(alike: AdapterStore, call: Call) -> None:
    for name in ("four", "five"):
        state = alike.load(f"{REFS[0]}" if name == "four" else REFS[1])
        more = {k.replace(".q.", ".v."): t * 1e-3 for k, t in state.tensors.items()}
        alike.register(name, AdapterState("lora", CONFIG, {**state.tensors, **more}), base=BASE)
    shown = lines(printed(call("store", "compress", "four", "five", "--budget", "28%", "--dry-run")))
    assert shown[-1] == "lost     v: no room for them"


def test_errors_are_one_line(alike: AdapterStore, call: Call) -> None:
    refused = call("store", "compress", *REFS, "--budget", "20%", "--max-error", "1%")
    assert refused.exit_code == 2
    assert refused.stderr.startswith("error: ")
    assert "of its norm, more than 1.0%; give a larger budget, or leave it out" in refused.stderr
    refused = call("store", "compress", *REFS, "--budget", "half")
    assert refused.stderr == "error: 'half' is no size; write 500MB, 2GiB or a number of bytes\n"
    refused = call("store", "compress", *REFS, "--budget", "50%", "--max-forgetting", "0.01")
    assert refused.stderr == "error: --max-forgetting needs --eval FILE to measure with\n"


def test_a_dry_run_fails_as_storing_would(alike: AdapterStore, call: Call) -> None:
    refused = call("store", "compress", *REFS, "--budget", "20%", "--max-error", "1%", "--dry-run")
    assert refused.exit_code == 2
    assert lines(refused.stdout)[0].split() == ["version", "error", "rank", "before", "after"]
    assert "more than 1.0%" in refused.stderr
    told(call("store", "compress", *REFS, "--budget", "50%", "--max-error", "1%", "--dry-run"))


@pytest.fixture(scope="module")
def learnt(learnt_support: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The evaluation file of a store that has learnt two teams' tickets, one adapter a team."""
    return copy_support(learnt_support, tmp_path_factory.mktemp("compress"))


@pytest.fixture
def measure(learnt: Path) -> Call:
    def run(*options: str) -> Result:
        asked = ["store", "compress", BILLING, TRAVEL, "--eval", str(learnt), *options]
        environment = {"CONTPEFT_STORE": str(learnt.parent / "adapters"), "TERM": "dumb"}
        return CliRunner().invoke(app, asked, env=environment)

    return run


def test_accuracy_is_measured_on_what_each_answers(measure: Call) -> None:
    shown = lines(told(measure("--budget", "98%", "--dry-run"))[0])
    place = shown.index("version                     tasks  accuracy before   after")
    assert [row.split() for row in shown[place + 1 : place + 3]] == [
        [BILLING, "1", "100.0%", "100.0%"],
        [TRAVEL, "1", "100.0%", "100.0%"],
    ]


def test_nothing_is_stored_if_accuracy_is_lost(measure: Call, learnt: Path) -> None:
    store = AdapterStore(learnt.parent / "adapters")
    versions, harm = store.versions(), "contpeft.experiments.compression.fmean"
    with pytest.MonkeyPatch.context() as patch:
        scores = iter([1.0, 0.95, 1.0, 0.8])
        patch.setattr(harm, lambda _: next(scores))
        refused = measure("--budget", "98%", "--max-forgetting", "0.05")
    assert refused.exit_code == 1
    assert refused.stderr.splitlines()[-1] == (
        f"error: {TRAVEL} would have 80.0% instead of 100.0% on its tasks, and 5.0% may be lost; "
        "nothing is stored: give a larger --budget, or leave it out"
    )
    assert store.versions() == versions
    found = json.loads(told(measure("--budget", "98%", "--max-forgetting", "0", "--json"))[0])
    assert found["measured"][0] == {"ref": BILLING, "tasks": 1, "before": 1.0, "after": 1.0}
    assert store.show(found["stored"]["refs"][1]).ref == TRAVEL.replace("@1", "@2")
    store.close()
