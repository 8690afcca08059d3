"""``contpeft store export`` and ``import``."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cli_helpers import BASE, HEAD, lines, printed, told
from typer.testing import CliRunner, Result

from contpeft.cli import app
from contpeft.spec import AdapterState, Parent
from contpeft.store import AdapterStore

FILES = [
    "adapter_config.json",
    "adapter_model.safetensors",
    "contpeft/head.safetensors",
    "contpeft/version.json",
]
Call = Callable[..., Result]
NAMES = [f"base_model.model.layer.{n}.q.lora_{factor}.weight" for n in (0, 1) for factor in "AB"]


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.fixture
def served(filled: AdapterStore) -> AdapterStore:
    """Beside the others: mail@2, an adapter PEFT can load, with a head and a parent."""
    shapes = [(2, 4), (6, 2)] * 2
    tensors = {name: torch.ones(shape) for name, shape in zip(NAMES, shapes, strict=True)}
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q"]}
    state = AdapterState("lora", config, {**tensors, "head.weight": torch.ones(2, 4)}, HEAD)
    filled.register("mail", state, base=BASE, task="tickets", parents=[Parent("billing@1")])
    return filled


def test_export(call: Call, served: AdapterStore, tmp_path: Path) -> None:
    out, said = told(call("store", "export", "mail", str(tmp_path / "out")))
    assert out == f"{tmp_path}/out\n"
    assert lines(re.sub(r"[\d.]+ kB", "<size>", said)) == [
        f"mail@2, faithful: {', '.join(FILES)}, <size>",
        f"load: PeftModel.from_pretrained(base, '{tmp_path}/out')",
    ]
    assert {str(path.relative_to(tmp_path / "out")) for path in files_in(tmp_path / "out")} == {*FILES}


def test_export_of_a_method_that_peft_lacks_says_what_to_import(
    call: Call, filled: AdapterStore, tmp_path: Path
) -> None:
    site = "base_model.model.layer.0.output.LayerNorm.bottleneck_down.weight"
    config = {"peft_type": "PFEIFFER", "target_modules": "layer.0.output.LayerNorm"}
    filled.register("bottle", AdapterState("pfeiffer", config, {site: torch.ones(1, 4)}), base=BASE)
    _, said = told(call("store", "export", "bottle", str(tmp_path / "out")))
    assert lines(said)[-1] == (
        f"load: import contpeft.adapters; PeftModel.from_pretrained(base, '{tmp_path}/out')"
    )


def test_export_of_a_union_says_how_its_parts_are_loaded(
    call: Call, filled: AdapterStore, tmp_path: Path
) -> None:
    parts = [{"peft_type": "PARALLEL"}, {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 1}]
    config = {"peft_type": "UNION", "gated": False, "parts": parts}
    tensors = {"0.base_model.model.bottleneck_up": torch.ones(1), "1.prompt_embeddings": torch.ones(1, 4)}
    filled.register("both", AdapterState("union", config, tensors), base=BASE)
    out = tmp_path / "out"
    _, said = told(call("store", "export", "both", str(out)))
    assert lines(said)[-1] == (
        f"load: import contpeft.adapters; PeftModel.from_pretrained(base, '{out}/0-parallel'); "
        f"PeftModel.from_pretrained(base, '{out}/1-prefix_tuning')"
    )
    filled.register("gated", AdapterState("union", config | {"gated": True}, tensors), base=BASE)
    refused = call("store", "export", "gated", str(tmp_path / "gated"))
    assert refused.exit_code != 0
    assert "gated@1 is a union with gates, for which PEFT has no place" in " ".join(refused.stderr.split())


def test_export_for_engines(call: Call, served: AdapterStore, tmp_path: Path) -> None:
    arguments = ("--profile", "serving", "--base-name", "org/base", "--json")
    made = json.loads(told(call("store", "export", "mail@2", str(tmp_path / "out"), *arguments))[0])
    assert made == {
        "ref": "mail@2",
        "path": f"{tmp_path}/out",
        "profile": "serving",
        "files": FILES,
        "bytes": sum(path.stat().st_size for path in files_in(tmp_path / "out")),
    }
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (8, 8, "org/base")


def test_export_is_refused_in_one_line(call: Call, served: AdapterStore, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for arguments, code, message in (
        (
            ("mail", str(tmp_path / "full")),
            2,
            "full exists and is not empty; name a folder that is new or empty",
        ),
        (("mial", str(tmp_path / "out")), 3, "no adapter 'mial' in "),
        (("mail", str(tmp_path / "out"), "--profile", "serve"), 2, "'serve'"),
        (
            ("mail", str(tmp_path / "out"), "--profile", "serving", "--base", str(tmp_path)),
            3,
            "(it has no config.json); name a transformers model folder",
        ),
    ):
        result = call("store", "export", *arguments)
        assert (result.exit_code, result.stdout) == (code, "")
        assert message in result.stderr
    assert not (tmp_path / "out").exists()


def test_out_and_in(call: Call, served: AdapterStore, tmp_path: Path) -> None:
    told(call("store", "export", "mail", str(tmp_path / "out")))
    out, said = told(call("store", "import", str(tmp_path / "out"), "--name", "copy"))
    assert out == "copy@1\n"
    assert lines(said) == ["lora on 'tiny-bert', parents: billing@1", "look: contpeft store show copy@1"]
    again = ("store", "import", str(tmp_path / "out"), "--name", "copy", "--like", "mail@1", "--json")
    found = json.loads(told(call(*again))[0])
    assert (found["ref"], found["origin"], found["task"]) == ("copy@1", "imported", "tickets")
    assert found["fingerprint"] == served.show("mail").fingerprint
    assert found["head"] == HEAD.to_json()
    named = ("store", "import", str(tmp_path / "out"), "--name", "copy", "--task", "other")
    assert told(call(*named))[0] == "copy@2\n"


def test_into_a_store_that_is_not_there_yet(call: Call, served: AdapterStore, tmp_path: Path) -> None:
    told(call("store", "export", "mail", str(tmp_path / "out")))
    arguments = (
        "store",
        "import",
        str(tmp_path / "out"),
        "--name",
        "first",
        "--store",
        str(tmp_path / "new"),
    )
    out, said = told(CliRunner().invoke(app, arguments))
    assert out == "first@1\n"
    assert lines(said)[0] == "lora on 'tiny-bert', parents: none here"
    assert lines(printed(call("store", "list", "--store", str(tmp_path / "new"), "-q"))) == ["first@1"]


def test_import_is_refused_in_one_line(call: Call, served: AdapterStore, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    told(call("store", "export", "mail", str(folder)))
    shutil.rmtree(folder / "contpeft")
    start = ("store", "import", str(folder), "--name")
    for arguments, code, message in (
        ((*start, "new"), 2, "names its base by a path alone ('tiny-bert'); give the base: a model folder"),
        ((*start, "../new", "--like", "mail"), 2, "adapter name '../new' is not usable"),
        ((*start, "new", "--like", "mial"), 3, "no adapter 'mial'"),
        ((*start, "new", "--like", "mail", "--base", "."), 2, "--base and --like both say which base it is"),
        (
            (*start, "new", "--base", str(folder)),
            3,
            "(it has no config.json); name a transformers model folder",
        ),
        (("store", "import", str(tmp_path / "no"), "--name", "new"), 3, "there is no folder "),
        (("store", "import", str(folder / "a.bin"), "--name", "new"), 2, "is a pickle, which is never read"),
    ):
        result = call(*arguments)
        assert (result.exit_code, result.stdout) == (code, "")
        assert result.stderr.startswith("error: ")
        assert message in result.stderr
        assert result.stderr.count("\n") == 1
    assert "new" not in served.names()
    nowhere = tmp_path / "nowhere"
    for more in ((), ("--like", "mail")):
        assert call(*start, "new", *more, "--store", str(nowhere)).exit_code in (2, 3)
    assert not nowhere.exists()
    assert told(call(*start, "new", "--like", "mail"))[0] == "new@1\n"
