"""``contpeft store export`` and ``import`` with folders of AdapterHub's."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_helpers import lines, told
from typer.testing import Result

from contpeft.adapters.tuners import REGISTERED

pytestmark = pytest.mark.skipif(not REGISTERED, reason="this release of PEFT is too old")
FROZEN = Path(__file__).parents[1] / "adapters" / "frozen" / "adapterhub"
Call = Callable[..., Result]
ON = ("--base", str(FROZEN / "base"))


def test_an_adapter_goes_in_and_out(call: Call, tmp_path: Path) -> None:
    out, said = told(
        call("store", "import", str(FROZEN / "setup/sst"), "--name", "sst", *ON, "--task", "films")
    )
    assert out == "sst@1\n"
    assert lines(said)[-2:] == [
        "pfeiffer on 'base', parents: none here",
        "look: contpeft store show sst@1",
    ]
    out, said = told(call("store", "export", "sst", str(tmp_path / "out"), "--profile", "adapterhub"))
    names = "adapter.safetensors, adapter_config.json, contpeft/version.json, head_config.json, "
    assert lines(re.sub(r"[\d.]+ kB", "<size>", said)) == [
        f"sst@1, adapterhub: {names}model_head.safetensors, <size>",
        f"load: model.load_adapter('{tmp_path}/out', use_safetensors=True)",
    ]
    again = json.loads(told(call("store", "import", str(tmp_path / "out"), "--name", "again", "--json"))[0])
    assert (again["task"], again["head"]["classes"]) == ("films", ["neg", "neu", "pos"])


def test_a_fusion_goes_in_over_its_members_and_out_with_them(call: Call, tmp_path: Path) -> None:
    for name in ("sst", "mnli"):
        told(call("store", "import", str(FROZEN / "setup" / name), "--name", name, *ON))
    arguments = ("store", "import", str(FROZEN / "setup/sst,mnli"), "--name", "fused")
    out, said = told(call(*arguments, "--over", "sst@1, mnli"))
    assert out == "fused@1\n"
    assert lines(said)[0] == "fusion on 'base', parents: sst@1, mnli@1"
    _, said = told(call("store", "export", "fused", str(tmp_path / "out"), "--profile", "adapterhub"))
    assert lines(said)[-1] == f"load: model.load_adapter_setup('{tmp_path}/out', use_safetensors=True)"
    assert (tmp_path / "out/adapter_setup.json").is_file()
    refused = call(*arguments, "--over", "mnli,sst")
    assert refused.exit_code == 2
    assert "give the members in this order: sst, mnli" in re.sub(r"\s+", " ", refused.stderr)


def test_a_setup_brings_its_adapters(call: Call) -> None:
    out, said = told(call("store", "import", str(FROZEN / "setup"), "--name", "films", *ON))
    assert out == "films@1\n"
    assert "fusion on 'base', parents: films.sst@1, films.mnli@1" in said


def test_flags_for_adapterhub_are_refused_elsewhere(call: Call, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    for flags in (["--legacy"], ["--pickle"], ["--over", "billing"]):
        refused = call("store", "import", str(tmp_path), "--name", "x", *flags)
        assert refused.exit_code == 2
        assert "is no folder of AdapterHub's" in re.sub(r"\s+", " ", refused.stderr)


def test_a_head_stays_behind_when_asked(call: Call, tmp_path: Path) -> None:
    told(call("store", "import", str(FROZEN / "low"), "--name", "low", *ON))
    told(call("store", "export", "low", str(tmp_path / "out"), "--profile", "adapterhub", "--no-head"))
    assert not (tmp_path / "out/head_config.json").exists()
    refused = call("store", "export", "low", str(tmp_path / "other"), "--no-head")
    assert refused.exit_code == 2
