"""Fusions and setups of AdapterHub's that are not wholly understood are refused, and nothing is stored."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters_hub import (
    ADAPTERS,
    BASE,
    FROZEN,
    FUSED,
    Spoil,
    options,
    refused,
    renamed,
    spoilt,
)
from torch import Tensor

from contpeft.adapters.tuners import REGISTERED
from contpeft.errors import (
    ContpeftError,
    IntegrityError,
    NotFoundError,
    SpecError,
    UnsupportedError,
    UsageError,
)
from contpeft.store import AdapterStore

pytestmark = pytest.mark.skipif(not REGISTERED, reason="this release of PEFT is too old")
VALUE = "bert.encoder.layer.0.output.adapter_fusion_layer.sst,mnli.value.weight"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[AdapterStore]:
    opened = AdapterStore(tmp_path / "store")
    yield opened
    opened.close()


FUSIONS: dict[str, tuple[Spoil, type[ContpeftError], str]] = {
    "a tensor less": (lambda c, t: t.pop(VALUE), SpecError, f"tensor '{VALUE}' is missing"),
    "a site more": (
        lambda c, t: t.update({VALUE.replace(".output.", ".attention.output."): torch.ones(4, 4)}),
        SpecError, "attention.output.adapter_fusion_layer.sst,mnli.value.weight' is unexpected",
    ),
    "another fusion whose name begins alike": (
        lambda c, t: t.update({VALUE.replace("sst,mnli", "sst,mnli,qqp"): torch.ones(4, 4)}),
        SpecError, "sst,mnli,qqp.value.weight' is unexpected: it is no part of 'sst,mnli'",
    ),
    "a shape": (lambda c, t: t.update({VALUE: torch.ones(4, 3)}), SpecError, r"shape \(4, 3\); .* \(4, 4\)"),
    "no key": (lambda c, t: options(c, key=False), SpecError, "key.bias' is unexpected"),
    "residual": (
        lambda c, t: options(c, residual_before=True),
        UnsupportedError, "residual_before=True .*without",
    ),
    "temperature": (
        lambda c, t: options(c, temperature=True),
        UnsupportedError, "how far .* has cooled is not",
    ),
    "nothing": (
        lambda c, t: options(c, key=False, query=False, value=False), UnsupportedError, "nothing to keep",
    ),
    "text": (lambda c, t: options(c, value="True"), SpecError, "value='True' is neither true nor false"),
    "unknown": (lambda c, t: options(c, heads=2), SpecError, "key 'heads' of the fusion's"),
    "option less": (lambda c, t: c["config"].pop("key"), SpecError, "configuration has no 'key'"),
    "other members": (
        lambda c, t: c.update(adapter_names=["sst", "qqp"]), SpecError, "has 'qqp' where mnli@1 was given",
    ),
    "more members": (
        lambda c, t: c.update(adapter_names=["sst", "mnli", "qqp"]),
        UsageError, r"is over 3 adapters \(sst, mnli, qqp\), 2 were given",
    ),
    "names that are none": (lambda c, t: c.update(adapter_names="sst"), SpecError, "no list of two or more"),
    "no names": (lambda c, t: c.pop("adapter_names"), UnsupportedError, "it has no adapter_names"),
    "a near-zero diagonal": (
        lambda c, t: t.update({VALUE: torch.full((4, 4), 1e-20)}), UnsupportedError, "an entry so near 0",
    ),
}  # fmt: skip


@pytest.fixture
def members(store: AdapterStore) -> AdapterStore:
    for name in ("sst", "mnli"):
        store.exchange.import_folder(FROZEN / "setup" / name, name, base=BASE)
    return store


@pytest.mark.parametrize("case", FUSIONS)
def test_fusions_that_are_not_taken_in(case: str, members: AdapterStore, tmp_path: Path) -> None:
    spoil, error, match = FUSIONS[case]
    folder = spoilt(FUSED, tmp_path / "in", spoil)
    refused(members, folder, error, match, over=["sst", "mnli"])


def test_the_members_of_a_fusion_are_needed_in_their_order(members: AdapterStore) -> None:
    refused(members, FUSED, UsageError, "is over 2 adapters .*, 0 were given; .*--over")
    refused(members, FUSED, SpecError, "has 'sst' where mnli@1 was given", over=["mnli", "sst"])
    refused(members, FUSED, NotFoundError, "no adapter 'qqp'", over=["sst", "qqp"])
    refused(members, ADAPTERS["lora"], UsageError, "--over is for a fusion", over=["sst"])


def test_a_fusion_whose_member_was_removed_is_not_a_smaller_fusion(
    members: AdapterStore, tmp_path: Path
) -> None:
    members.exchange.import_folder(FUSED, "both", over=["sst", "mnli"])
    with pytest.raises(ContpeftError, match="both@1"):
        members.upkeep.remove(["mnli@1"])
    shutil.copytree(FROZEN / "setup", tmp_path / "setup")
    shutil.rmtree(tmp_path / "setup" / "mnli")
    refused(members, tmp_path / "setup", NotFoundError, "names 'mnli', and there is no folder")


@pytest.mark.parametrize(
    ("method", "match"), [("parallel", "adds the input twice"), ("lora", "fuses bottleneck adapters")]
)
def test_fusions_over_parallel_adapters_or_lora_are_refused(
    method: str, match: str, store: AdapterStore, tmp_path: Path
) -> None:
    own = ADAPTERS[method].name
    for new in ("sst", "mnli"):

        def rename(told: dict[str, Any], tensors: dict[str, Tensor], new: str = new) -> None:
            told.update(name=new)
            renamed(tensors, f".{own}.", f".{new}.")

        folder = spoilt(ADAPTERS[method], tmp_path / new, rename)
        for path in folder.glob("*head*"):
            path.unlink()
        store.exchange.import_folder(folder, new, base=BASE)
    refused(store, FUSED, UnsupportedError, match, over=["sst", "mnli"])


SETUPS: dict[str, tuple[dict[str, Any], type[ContpeftError], str]] = {
    "stack": ({"type": "Stack"}, UnsupportedError, "of type 'Stack' with parts"),
    "fusion of stacks": (
        {"children": [{"type": "Stack", "children": [{"type": "single", "children": ["sst"]}]}]},
        UnsupportedError, "of type 'Fuse' with parts",
    ),
    "a path": ({"type": "single", "children": ["../sst"]}, SpecError, "is named '../sst'"),
    "twice": ({"children": [{"type": "single", "children": ["sst"]}] * 2}, SpecError, "fuses"),
    "nothing": ({"children": None}, SpecError, "which is no composition"),
    "another order": (
        {"children": [{"type": "single", "children": [name]} for name in ("mnli", "sst")]},
        NotFoundError, "names 'mnli,sst'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SETUPS)
def test_setups_that_are_not_taken_in(case: str, store: AdapterStore, tmp_path: Path) -> None:
    values, error, match = SETUPS[case]
    shutil.copytree(FROZEN / "setup", tmp_path / "in")
    told = json.loads((tmp_path / "in/adapter_setup.json").read_text())
    told["adapter_setup"].update(values)
    (tmp_path / "in/adapter_setup.json").write_text(json.dumps(told))
    refused(store, tmp_path / "in", error, match)


def test_an_exported_folder_that_was_changed_is_refused(store: AdapterStore, tmp_path: Path) -> None:
    store.exchange.import_folder(ADAPTERS["parallel"], "mine", base=BASE)
    store.exchange.export_folder("mine", tmp_path / "out", profile="adapterhub")
    spoilt(tmp_path / "out", tmp_path / "changed", lambda told, _: told.update(model_name="else"))
    refused(store, tmp_path / "changed", IntegrityError, "is not the file that was exported")
    shutil.copy(ADAPTERS["pfeiffer"] / "head_config.json", tmp_path / "out")
    refused(store, tmp_path / "out", IntegrityError, "head_config.json is not the file that was exported")
