"""What comes in from a folder: all of it understood and accounted for, or nothing stored."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from store_audit import audit
from store_folders import ROOT, factors, snapshot, told, write_folder
from store_workers import BASE
from torch import Tensor

from contpeft.errors import (
    BaseMismatchError,
    ContpeftError,
    IntegrityError,
    NotFoundError,
    SpecError,
    UnsupportedError,
    UsageError,
)
from contpeft.spec import AdapterState, BaseModel, HeadSpec, Parent
from contpeft.store import AdapterStore

Spoil = Callable[[dict[str, Any], dict[str, Tensor]], Any]
A, B = ROOT.format(0, "query", "A"), ROOT.format(0, "query", "B")


def refused(
    store: AdapterStore, folder: Path, error: type[ContpeftError], match: str, **options: Any
) -> None:
    """Imports a folder, sees it refused in one line, and the store as it was."""
    before = snapshot(store.path)
    with pytest.raises(error, match=match) as caught:
        store.exchange.import_folder(folder, "new", **{"base": BASE, **options})
    assert "\n" not in str(caught.value)
    assert snapshot(store.path) == before


def test_a_folder_becomes_a_version(store: AdapterStore, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "in")
    version = store.exchange.import_folder(folder, "mail", base=BASE, task="mail")
    assert (version.ref, version.kind, version.origin, version.task) == ("mail@1", "lora", "imported", "mail")
    assert (version.base, version.head, version.parents, version.run) == (BASE, None, (), None)
    assert version.recipe == {
        "imported": {"base_model_name_or_path": "somebody/tiny-bert", "peft_version": "0.19.0"}
    }
    assert {key: version.config[key] for key in ("peft_type", "r", "lora_alpha", "target_modules")} == {
        "peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["query", "value"],
    }  # fmt: skip
    assert {"peft_version", "base_model_name_or_path", "inference_mode"}.isdisjoint(version.config)
    stored = store.load("mail").tensors
    assert stored.keys() == factors().keys()
    assert all(torch.equal(stored[name], tensor) for name, tensor in factors().items())
    assert audit(store.path) == []


def test_the_same_folder_is_the_same_version(store: AdapterStore, tmp_path: Path) -> None:
    first = store.exchange.import_folder(write_folder(tmp_path / "in"), "mail", base=BASE)
    shuffled = dict(reversed(told(target_modules=["value", "query"]).items()))
    again = write_folder(tmp_path / "again", shuffled)
    assert store.exchange.import_folder(str(again), "mail", base=BASE) == first
    other = write_folder(tmp_path / "other", tensors=factors(1))
    assert store.exchange.import_folder(other, "mail", base=BASE).ref == "mail@2"


def rename(old: str, new: str) -> Spoil:
    return lambda config, tensors: tensors.update({new: tensors.pop(old)})


TENSORS: dict[str, tuple[Spoil, type[ContpeftError], str]] = {
    "a weight of the base": (
        lambda c, t: t.update({"base_model.model.encoder.layer.0.query.weight": torch.ones(6, 4)}),
        SpecError, "layer.0.query.weight' is neither a factor of the adapter nor of a head",
    ),
    "a bias of the base": (
        lambda c, t: t.update({"base_model.model.encoder.layer.0.query.base_layer.bias": torch.ones(6)}),
        SpecError, "base_layer.bias' is neither",
    ),
    "an undeclared head": (
        lambda c, t: t.update({"base_model.model.classifier.weight": torch.ones(2, 4)}),
        SpecError, "classifier.weight' is neither",
    ),
    "another prefix": (rename(A, f"model.{A}"), SpecError, "is neither a factor"),
    "no prefix": (rename(A, "encoder.layer.0.query.lora_A.weight"), SpecError, "is neither a factor"),
    "A without B": (lambda c, t: t.pop(B), SpecError, "'lora_B.weight' of '.*0.query' is missing"),
    "B without A": (lambda c, t: t.pop(A), SpecError, "'lora_A.weight' of '.*0.query' is missing"),
    "all A alone": (
        lambda c, t: [t.pop(name) for name in list(t) if "lora_B" in name],
        SpecError, "factor 'lora_B.weight' of .* is missing",
    ),
    "a target without factors": (
        lambda c, t: c.update(target_modules=["query", "value", "key"]),
        SpecError, "names 'key', but there is no factor for it",
    ),
    "factors without a target": (
        lambda c, t: c.update(target_modules=["query"]), SpecError, "which target_modules does not name",
    ),
    "another rank": (lambda c, t: c.update(r=4), SpecError, r"\(6, 2\)\], .* gives them rank 4"),
    "another rank by pattern": (
        lambda c, t: c.update(rank_pattern={"layer.1.value": 1}), SpecError, "layer.1.value' have .* rank 1",
    ),
    "a rank of its own": (
        lambda c, t: t.update({A: torch.ones(3, 4)}), SpecError, r"\[\(3, 4\), \(6, 2\)\], .* rank 2",
    ),
    "a vector": (lambda c, t: t.update({A: torch.ones(2)}), SpecError, "they are no matrices"),
    "DoRA without magnitudes": (
        lambda c, t: c.update(use_dora=True), SpecError, "'lora_magnitude_vector' of .* is missing",
    ),
    "magnitudes without DoRA": (
        lambda c, t: t.update(
            {A.replace("lora_A.weight", "lora_magnitude_vector"): torch.ones(6),
             ROOT.format(1, "query", "A").replace("lora_A.weight", "lora_magnitude_vector"): torch.ones(6)}
        ),
        SpecError, "which adapter_config.json does not ask for",
    ),
    "a factor of no such name": (
        lambda c, t: t.update({A.replace("lora_A", "lora_C"): torch.ones(2, 2),
                               ROOT.format(1, "query", "C"): torch.ones(2, 2)}),
        SpecError, "'lora_C.weight' of .* which adapter_config.json does not ask for",
    ),
    "no factor at all": (lambda c, t: t.clear(), SpecError, "no factor of lora among the 0 tensors"),
    "an unknown key": (lambda c, t: c.update(use_magic=True), SpecError, "PEFT does not know: use_magic"),
    "no method": (lambda c, t: c.pop("peft_type"), SpecError, "peft_type None"),
    "an unknown method": (lambda c, t: c.update(peft_type="LORRA"), SpecError, "did you mean 'lora'"),
    "a prompt": (lambda c, t: c.update(peft_type="PROMPT_TUNING"), SpecError, "does not know: lora_alpha"),
    "no set of layers": (lambda c, t: c.update(peft_type="POLY"), UnsupportedError, "PEFT's own forward"),
    "biases": (lambda c, t: c.update(bias="lora_only"), UnsupportedError, "option bias='lora_only'"),
    "PiSSA": (lambda c, t: c.update(init_lora_weights="pissa"), UnsupportedError, "rewrites the base"),
    "no number as rank": (lambda c, t: c.update(r="two"), SpecError, "gives them rank two"),
    "no number as alpha": (lambda c, t: c.update(lora_alpha="big"), SpecError, "alpha 'big', which is"),
    "no number as alpha pattern": (lambda c, t: c.update(alpha_pattern=3), SpecError, "cannot be meant"),
    "targets of lists": (lambda c, t: c.update(target_modules=[["query"]]), SpecError, "cannot be meant"),
    "targets as a number": (lambda c, t: c.update(target_modules=7), SpecError, "cannot be meant"),
    "a broken expression": (lambda c, t: c.update(target_modules="(query"), SpecError, "cannot be meant"),
    "a broken pattern": (lambda c, t: c.update(rank_pattern={"(": 2}), SpecError, "cannot be meant"),
}  # fmt: skip


@pytest.mark.parametrize("name", TENSORS)
def test_what_does_not_belong_together_is_refused(name: str, store: AdapterStore, tmp_path: Path) -> None:
    spoil, error, match = TENSORS[name]
    config, tensors = told(), factors()
    spoil(config, tensors)
    refused(store, write_folder(tmp_path / "in", config, tensors), error, match)


def test_a_folder_without_an_adapter(store: AdapterStore, tmp_path: Path) -> None:
    refused(store, tmp_path / "absent", NotFoundError, "there is no folder .*absent")
    folder = write_folder(tmp_path / "in")
    outer = tmp_path / "outer"
    outer.mkdir()
    folder.rename(outer / "task-1")
    refused(store, outer, NotFoundError, "no adapter_config.json in .*outer; there are: task-1")
    (outer / "task-1" / "adapter_model.safetensors").unlink()
    refused(store, outer / "task-1", NotFoundError, "no adapter_model.safetensors in ")


def test_a_name_that_cannot_be(store: AdapterStore, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "in")
    with pytest.raises(SpecError, match=r"adapter name '../up' is not usable"):
        store.exchange.import_folder(folder, "../up", base=BASE)


def test_the_base_must_be_told(store: AdapterStore, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "in")
    refused(store, folder, UsageError, r"by a path alone \('somebody/tiny-bert'\); give the base", base=None)


@pytest.fixture
def exported(store: AdapterStore, tmp_path: Path) -> Path:
    """A version with a head and two parents, in a folder."""
    config, tensors = told(), factors(3)
    for seed in (1, 2):
        store.register("parent", AdapterState("lora", config, factors(seed)), base=BASE)
    state = AdapterState(
        "lora",
        config,
        {**tensors, "head.weight": torch.randn(2, 6), "head.bias": torch.zeros(2)},
        HeadSpec("linear", ("no", "yes")),
    )
    parents = [Parent("parent@1", "fused", 0.25), Parent("parent@2", "fused", 0.75)]
    store.register(
        "child", state, base=BASE, origin="fused", parents=parents, recipe={"rule": "sum"},
        task="mail", data="da7a", seconds=1.5,
    )  # fmt: skip
    store.exchange.export_folder("child", tmp_path / "out")
    return tmp_path / "out"


def test_lineage_comes_back_where_the_parents_are(
    store: AdapterStore, exported: Path, tmp_path: Path
) -> None:
    original = store.show("child")
    other = AdapterStore(tmp_path / "other")
    second = AdapterState("lora", told(), factors(2))
    other.register("elsewhere", second, base=BASE)
    other.register("parent", AdapterState("lora", told(), factors(9)), base=BASE)
    version = other.exchange.import_folder(exported, "child")
    assert version.parents == (Parent("elsewhere@1", "fused", 0.75),)
    assert (version.fingerprint, version.sha256, version.head) == (
        original.fingerprint, original.sha256, original.head,
    )  # fmt: skip
    assert (version.task, version.data, version.seconds, version.base) == ("mail", "da7a", 1.5, BASE)
    assert version.recipe is not None
    known = version.recipe["imported"]
    assert (known["ref"], known["origin"], known["recipe"]) == ("child@1", "fused", {"rule": "sum"})
    assert known["environment"] == original.environment
    assert [each["ref"] for each in known["parents"]] == ["parent@1", "parent@2"]
    assert other.exchange.import_folder(exported, "child") == version
    assert other.exchange.import_folder(exported, "child", task="other").task == "other"
    assert audit(other.path) == []
    other.close()


def test_of_equal_parents_the_one_of_that_name_is_taken(exported: Path, tmp_path: Path) -> None:
    with closing(AdapterStore(tmp_path / "other")) as other:
        for name in ("copy", "parent", "late"):
            for seed in (1, 2):
                other.register(name, AdapterState("lora", told(), factors(seed)), base=BASE)
        assert [each.ref for each in other.exchange.import_folder(exported, "a").parents] == [
            "parent@1",
            "parent@2",
        ]
        other.upkeep.remove(["a@1", "parent@1", "parent@2"])
        assert [each.ref for each in other.exchange.import_folder(exported, "a").parents] == [
            "copy@1",
            "copy@2",
        ]


def test_another_base_is_refused(store: AdapterStore, exported: Path) -> None:
    other = BaseModel("other", "07he5", 5)
    refused(
        store,
        exported,
        BaseMismatchError,
        r"was trained on 'tiny-bert' \(ba5eba5eba5e\), .* 'other'",
        base=other,
    )
    assert store.exchange.import_folder(exported, "in", base=BASE).base == BASE


def edit(folder: Path, **values: Any) -> None:
    side = json.loads((folder / "contpeft" / "version.json").read_text())
    (folder / "contpeft" / "version.json").write_text(json.dumps({**side, **values}))


@pytest.mark.parametrize(
    "name", ["adapter_config.json", "adapter_model.safetensors", "contpeft/head.safetensors"]
)
def test_a_file_that_was_changed_is_refused(name: str, store: AdapterStore, exported: Path) -> None:
    path = exported / name
    path.write_bytes(path.read_bytes() + b" ")
    refused(store, exported, IntegrityError, f"{name} is not the file that was exported", base=None)
    path.unlink()
    error = NotFoundError if name.startswith("adapter") else IntegrityError
    refused(store, exported, error, name, base=None)


@pytest.mark.parametrize(
    "values",
    [
        {"format": 2},
        {"base": {"name": "x", "fingerprint": "y"}},
        {"base": {"name": 1, "fingerprint": "y", "parameters": 1}},
        {"base": {"name": "x", "fingerprint": "y", "parameters": 2**63}},
        {"base": ["x"]},
        {"head": {"kind": "linear", "classes": "no", "options": {}}},
        {"head": {"kind": "linear", "classes": [1], "options": {}}},
        {"parents": [{"ref": "a@1"}]},
        {"parents": [{"ref": "a@1", "role": "fused", "weight": "much", "fingerprint": "f"}]},
        {"parents": 3},
        {"task": 4},
        {"task": "\ud800"},
        {"seconds": "long"},
        {"seconds": 10**400},
        {"facts": []},
        {"files": {"adapter_config.json": None}},
    ],
    ids=range(16),
)
def test_a_side_file_of_another_form_is_refused(
    values: dict[str, Any], store: AdapterStore, exported: Path
) -> None:
    edit(exported, **values)
    refused(store, exported, IntegrityError, "version.json is not what contpeft writes there", base=None)


@pytest.mark.parametrize(
    ("head", "match"),
    [
        (None, "head.safetensors is a head that nothing declares"),
        ({"kind": "cosine", "classes": ["no", "yes"], "options": {}}, "kind 'cosine' has other tensors"),
        ({"kind": "linear", "classes": ["no"], "options": {}}, "a head of 1 classes needs as many rows"),
        ({"kind": "magic", "classes": [], "options": {}}, "cannot build a head of kind 'magic'"),
    ],
)
def test_a_head_that_is_not_declared_so(head: Any, match: str, store: AdapterStore, exported: Path) -> None:
    edit(exported, head=head)
    refused(store, exported, SpecError, match, base=None)


def test_without_the_side_file_it_is_a_folder_of_peft(store: AdapterStore, exported: Path) -> None:
    (exported / "contpeft" / "version.json").unlink()
    refused(store, exported, SpecError, "head.safetensors is a head that nothing declares")
    (exported / "contpeft" / "head.safetensors").unlink()
    version = store.exchange.import_folder(exported, "new", base=BASE)
    assert (version.head, version.parents) == (None, ())
