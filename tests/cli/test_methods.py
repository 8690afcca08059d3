"""``contpeft methods`` lists what the methods would be in a model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import BertConfig, BertModel
from typer.testing import Result

from contpeft.adapters.tuners import REGISTERED

pytestmark = [
    pytest.mark.skipif(not REGISTERED, reason="this release of PEFT is too old"),
    pytest.mark.usefixtures("no_compiler"),
]
Call = Callable[..., Result]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of one layer of width 16."""
    path = tmp_path_factory.mktemp("model")
    sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    BertModel(BertConfig(vocab_size=48, max_position_embeddings=16, **sizes)).save_pretrained(path)
    return path


def test_methods_are_listed_for_a_model(call: Call, folder: Path) -> None:
    ran = call("methods", "--model", str(folder))
    assert ran.exit_code == 0, ran.output
    lines = {line.split()[0]: line.split() for line in ran.stdout.splitlines()}
    titles = [
        "method",
        "trains",
        "share",
        "stores",
        "bytes",
        "FLOPs",
        "merge",
        "composes",
        "read",
        "by",
        "changes",
    ]
    assert lines["method"] == titles
    assert " ".join(lines["lora"]) == (
        "lora 512 14.286% 512 2.0 kB 1,024 all rules stack, sum, fuse, rows, drop PEFT, engines "
        "adds a low-rank product to W"
    )
    assert " ".join(lines["pissa"]).startswith(
        "pissa 512 14.286% 1,024 4.1 kB 2,048 all rules stack, sum, fuse, rows, drop PEFT, engines "
        "a variant of lora"
    )
    assert " ".join(lines["pfeiffer"]).startswith("pfeiffer 49 ")
    assert "c3a: method 'c3a' refuses BertModel: The block size should be a factor" in ran.stdout
    assert ran.stderr.startswith("listed with block_size=64, ")


def test_methods_as_json(call: Call, folder: Path) -> None:
    ran = call("methods", "--model", str(folder), "--json")
    rows = {row["method"]: row for row in json.loads(ran.stdout)}
    assert rows["pfeiffer"] == {
        "method": "pfeiffer",
        "options": {},
        "trainable": 49,
        "share": pytest.approx(49 / 3584),
        "stored": 49,
        "bytes": 4 * 49,
        "flops": 2 * (16 + 16),
        "refused": None,
        "changes": "adds a network after the FFN",
        "merge": ["average"],
        "composes": ["stack", "sum", "fuse", "drop"],
        "folder": "contpeft",
        "served": False,
        "paper": "Pfeiffer et al. 2021",
        "link": "https://arxiv.org/abs/2005.00247",
    }
    assert rows["vera"]["merge"] == []
    assert rows["c3a"]["trainable"] is None


def test_a_folder_without_a_model_is_refused(call: Call, tmp_path: Path) -> None:
    ran = call("methods", "--model", str(tmp_path))
    assert (ran.exit_code, ran.stdout) == (3, "")
    assert ran.stderr.startswith(f"error: no model in {tmp_path}")


def test_the_page_is_of_one_shape(call: Call) -> None:
    ran = call("methods", "--markdown", "--json")
    assert ran.exit_code == 2
    assert (
        ran.stderr == "error: --markdown prints one page for MiniLM's shape; leave --json and --model out\n"
    )
