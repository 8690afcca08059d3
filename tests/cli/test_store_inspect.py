"""``contpeft store inspect``: tables, verdicts, JSON, pictures."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cli_helpers import BASE, lines, printed
from typer.testing import Result

from contpeft.spec import AdapterState, BaseModel
from contpeft.store import AdapterStore

Call = Callable[..., Result]
CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q", "v"]}


def diagonal(
    first: float, second: float, modules: tuple[str, ...] = ("q", "v"), turn: int = 0
) -> AdapterState:
    """Returns an adapter whose updates have these two singular values, times 2 in ``v``."""
    right, left = torch.eye(4).roll(turn, 0)[:2], torch.eye(6).roll(turn, 0)[:, :2]
    tensors = {}
    for place, module in enumerate(modules):
        tensors[f"base_model.model.{module}.lora_A.weight"] = right.clone()
        tensors[f"base_model.model.{module}.lora_B.weight"] = (
            left * torch.tensor([first, second]) * (1 + place)
        )
    return AdapterState("lora", CONFIG, tensors)


@pytest.fixture
def spread(filled: AdapterStore) -> AdapterStore:
    """Beside the others: family@1 to family@6 on a base of their own, and odd@1, 100 times as large in v."""
    base = BaseModel("small", "5a11", 10)
    for size in (1.0, 1.1, 1.2, 0.9, 0.8, 0.95):
        filled.register("family", diagonal(3 * size, size * size), base=base)
    state = diagonal(3, 1)
    tensors = {**state.tensors, "base_model.model.v.lora_B.weight": 600 * torch.eye(6)[:, :2]}
    filled.register("odd", AdapterState("lora", CONFIG, tensors), base=base)
    return filled


def test_one_adapter_beside_its_family(spread: AdapterStore, call: Call) -> None:
    shown = lines(printed(call("store", "inspect", "family@1")))
    assert shown[:6] == [
        "family@1",
        "  kind            lora",
        "  norm            7.071",
        "  rank            4",
        "  effective rank  3.5",
        "",
    ]
    table = [" ".join(row.split()) for row in shown[6:9]]
    titles = "module shape rank effective stable 90/95/99 % norm singular values z norm z effective z top"
    assert table[0] == titles
    assert table[1].startswith("q 6 x 4 2 1.75 1.11 1/2/2 3.162 3 1 ")
    assert table[2].startswith("v 6 x 4 2 1.75 1.11 1/2/2 6.325 6 2 ")
    assert all(re.fullmatch(r"[+-]0\.\d", score) for row in table[1:] for score in row.split()[-3:])
    assert shown[9:] == ["", "no module is unlike those of 6 other versions (all |z| <= 3.5)"]


def test_an_outlier_is_named(spread: AdapterStore, call: Call) -> None:
    shown = lines(printed(call("store", "inspect", "odd", "--family", "family")))
    place = shown.index("1 of 2 modules unlike those of 6 other versions:")
    (named,) = shown[place + 1 :]
    assert named.startswith("  v: log_norm +4.")
    found = json.loads(printed(call("store", "inspect", "odd", "--json")))
    assert [each["module"] for each in found["adapters"][0]["outliers"]] == ["v"]
    assert found["family"]["refs"] == [f"family@{n}" for n in range(6, 0, -1)]


def test_few_others_give_no_verdict(spread: AdapterStore, call: Call) -> None:
    shown = lines(printed(call("store", "inspect", "odd", "--limit", "3")))
    assert shown[-1] == "no verdict: 3 other versions to compare with, and a module needs 5"
    assert "z norm" not in shown[6]


def test_a_module_that_others_have_is_missed(spread: AdapterStore, call: Call) -> None:
    spread.register("part", diagonal(3, 1, ("q",)), base=BaseModel("small", "5a11", 10))
    shown = lines(printed(call("store", "inspect", "part")))
    assert shown[-2:] == [
        "lacks v, which 7 of 7 other versions have",
        "no module is unlike those of 7 other versions (all |z| <= 3.5)",
    ]


def test_several_adapters_side_by_side(spread: AdapterStore, call: Call) -> None:
    base = BaseModel("small", "5a11", 10)
    spread.register("turned", diagonal(3, 1, turn=2), base=base)
    spread.register(
        "dora", AdapterState("lora", {**CONFIG, "use_dora": True}, diagonal(3, 1).tensors), base=base
    )
    shown = lines(printed(call("store", "inspect", "family@1", "turned", "family@3", "dora")))
    assert shown == [
        "ref       kind  modules  rank  effective   norm",
        "family@1  lora        2     4        3.5  7.071",
        "turned@1  lora        2     4        3.5  7.071",
        "family@3  lora        2     4        3.6   8.67",
        "dora@1    lora        -     -          -  7.348",
        "dora@1, norms only: an adapter with use_dora=True rescales the base's columns (DoRA); "
        "it cannot be merged",
        "",
        "cosines",
        *shown[8:12],
        "",
        "clusters",
        "  family@1 family@3",
        "  turned@1",
    ]
    rows = [row.split() for row in shown[8:12]]
    assert sorted(rows[0]) == ["family@1", "family@3", "turned@1"]
    cells = {(row[0], name): cell for row in rows[1:] for name, cell in zip(rows[0], row[1:], strict=True)}
    assert cells["family@1", "family@3"] == cells["family@3", "family@1"] == "+1.00"
    assert cells["family@1", "turned@1"] == "+0.00"


def test_near_duplicates_are_named(spread: AdapterStore, call: Call) -> None:
    spread.register("copy", diagonal(3.03, 1.01), base=BaseModel("small", "5a11", 10))
    shown = lines(printed(call("store", "inspect", "family@1", "copy")))
    assert shown[-2:] == ["nearly the same", "  family@1 copy@1 (apart by 0.99%)"]


def test_other_methods_have_norms_only(filled: AdapterStore, call: Call) -> None:
    filled.register("vera", AdapterState("vera", {}, {"x": torch.tensor([3.0, 4.0])}), base=BASE)
    assert lines(printed(call("store", "inspect", "vera"))) == [
        "vera@1",
        "  kind  vera",
        "  norm  5",
        "",
        "norms only: method 'vera' is no sum of low-rank updates; only 'lora' is",
        "  tensor  shape  norm",
        "  x           2     5",
    ]
    refused = call("store", "inspect", "vera", "--picture", "vera.png")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert refused.stderr == (
        "error: there are no spectra to draw: vera@1: method 'vera' is no sum of low-rank updates; "
        "only 'lora' is\n"
    )


def test_pictures_are_written(spread: AdapterStore, call: Call, tmp_path: Path) -> None:
    for name, refs in (("one.png", ["odd"]), ("several.PNG", ["odd", "family@1", "family@2"])):
        path = tmp_path / name
        printed(call("store", "inspect", *refs, "--picture", str(path)))
        assert path.read_bytes().startswith(b"\x89PNG")


def test_a_picture_that_cannot_be_written_is_refused(
    spread: AdapterStore, call: Call, tmp_path: Path
) -> None:
    refused = call("store", "inspect", "odd", "--picture", str(tmp_path / "picture.pdf"))
    assert refused.exit_code == 2
    assert "picture.pdf' is no name for a picture; name a .png file" in refused.stderr
    refused = call("store", "inspect", "odd", "--picture", str(tmp_path / "nowhere" / "a.png"))
    assert refused.exit_code == 2
    assert "No such file or directory; name a file in a folder that is there" in refused.stderr


def test_many_adapters_have_their_cosines_elsewhere(spread: AdapterStore, call: Call) -> None:
    refs = [f"family@{n}" for n in range(1, 7)]
    for turn in range(7):
        base = BaseModel("small", "5a11", 10)
        refs.append(spread.register(f"t{turn}", diagonal(3, turn / 9, turn=turn), base=base).ref)
    shown = call("store", "inspect", *refs)
    assert shown.stderr == "13 adapters: --json or --picture shows their cosines\n"
    assert "cosines" not in lines(shown.stdout)
