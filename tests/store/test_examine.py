"""Looking into adapters: spectra, poisoned copies found and sound ones not, likeness, other methods."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from store_trained import CONFIG, MODULES, scaled, spiked, train
from store_workers import BASE, make_state

from contpeft.errors import IntegrityError, NotFoundError, UsageError
from contpeft.spec import AdapterState, BaseModel
from contpeft.store import AdapterStore

COUNT = 16
TRAINED = train(COUNT)
Dense = dict[str, np.ndarray[Any, Any]]


@pytest.fixture
def family(store: AdapterStore) -> AdapterStore:
    """The trained adapters task-0 to task-15."""
    for place, state in enumerate(TRAINED):
        store.register(f"task-{place}", state, base=BASE)
    return store


def dense(state: AdapterState) -> Dense:
    name = "base_model.model.{}.lora_{}.weight"
    return {
        module: 2.0
        * np.asarray(state.tensors[name.format(module, "B")], np.float64)
        @ np.asarray(state.tensors[name.format(module, "A")], np.float64)
        for module in MODULES
    }


def cosine(one: Dense, other: Dense) -> float:
    a, b = (np.concatenate([each[module].ravel() for module in MODULES]) for each in (one, other))
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_spectra_are_those_of_the_dense_updates(family: AdapterStore) -> None:
    (found,) = family.inspect.adapters(["task-3"]).adapters
    expected = dense(TRAINED[3])
    assert [module.module for module in found.modules] == sorted(MODULES)
    for module in found.modules:
        s = np.linalg.svd(expected[module.module], compute_uv=False)[: CONFIG["r"]]
        np.testing.assert_allclose(module.spectrum.values, s, rtol=1e-6)
    assert found.norm == pytest.approx(np.sqrt(sum(np.sum(d**2) for d in expected.values())))
    assert found.rank == len(MODULES) * 6
    assert found.effective_rank == pytest.approx(sum(m.spectrum.effective_rank for m in found.modules))
    assert (found.ref, found.kind, found.remark, found.tensors) == ("task-3@1", "lora", None, ())


@pytest.mark.parametrize("place", range(COUNT))
def test_no_module_of_a_sound_adapter_is_an_outlier(family: AdapterStore, place: int) -> None:
    found = family.inspect.adapters([f"task-{place}"])
    assert found.family is not None
    assert (len(found.family.refs), found.family.compared) == (COUNT - 1, len(MODULES))
    assert found.adapters[0].outliers == ()


@pytest.mark.parametrize("place", [0, 7, 11])
@pytest.mark.parametrize(
    ("poison", "telling"),
    [
        (lambda state, module: scaled(state, module, 30), "log_norm"),
        (lambda state, module: scaled(state, module, -30), "log_norm"),
        (lambda state, module: scaled(state, module, 0.01), "log_norm"),
        (lambda state, module: spiked(state, module, 10), "top_share"),
    ],
    ids=["scaled", "turned", "silenced", "spiked"],
)
def test_a_poisoned_copy_is_found_and_its_module_named(
    family: AdapterStore, place: int, poison: Callable[[AdapterState, str], AdapterState], telling: str
) -> None:
    module = "layer.2.value"
    family.register("poisoned", poison(TRAINED[place], module), base=BASE)
    (found,) = family.inspect.adapters(["poisoned"]).adapters
    assert [each.module for each in found.outliers] == [module]
    assert telling in found.outliers[0].beyond


def test_sound_ones_stay_sound_beside_a_poisoned_one(family: AdapterStore) -> None:
    family.register("poisoned", scaled(TRAINED[0], "layer.2.value", 30), base=BASE)
    assert family.inspect.adapters(["task-1"]).adapters[0].outliers == ()


def test_few_others_say_nothing(store: AdapterStore) -> None:
    for place, state in enumerate(TRAINED[:5]):
        store.register(f"task-{place}", state, base=BASE)
    store.register("poisoned", scaled(TRAINED[6], "layer.2.value", 1e6), base=BASE)
    found = store.inspect.adapters(["poisoned"], limit=4)
    assert found.family is not None
    assert (found.family.refs, found.family.compared) == (tuple(f"task-{k}@1" for k in (4, 3, 2, 1)), 0)
    assert all(module.scores == {} for module in found.adapters[0].modules)
    assert store.inspect.adapters(["poisoned"]).adapters[0].outliers != ()


def test_the_family_is_of_one_base_and_kind_or_as_it_is_named(family: AdapterStore) -> None:
    family.register("elsewhere", TRAINED[0], base=BaseModel("other", "07he5", 1))
    family.register("dora", AdapterState("dora", CONFIG, TRAINED[0].tensors), base=BASE)
    family.register(
        "doubled", AdapterState("lora", {**CONFIG, "use_dora": True}, TRAINED[0].tensors), base=BASE
    )
    family.register("task-1", TRAINED[5], base=BASE)
    found = family.inspect.adapters(["task-0"]).family
    assert found is not None
    assert sorted(found.refs) == sorted([*(f"task-{k}@1" for k in range(1, COUNT)), "task-1@2"])
    found = family.inspect.adapters(["task-0"], family=["task-1", "task-2"]).family
    assert found is not None
    assert found.refs == ("task-1@2", "task-2@1", "task-1@1")
    with pytest.raises(NotFoundError, match=r"no adapter 'tusk-1' in .*; did you mean 'task-1'"):
        family.inspect.adapters(["task-0"], family=["tusk-1"])


def test_missing_modules_are_named_and_the_others_compared(family: AdapterStore) -> None:
    kept = {name: tensor for name, tensor in TRAINED[0].tensors.items() if "layer.1.query" not in name}
    family.register("partial", AdapterState("lora", CONFIG, kept), base=BASE)
    found = family.inspect.adapters(["partial"])
    assert found.family is not None
    assert found.family.absent == {"layer.1.query": COUNT}
    assert found.family.compared == len(found.adapters[0].modules) == len(MODULES) - 1


def test_cosines_clusters_and_twins_of_several(family: AdapterStore) -> None:
    nearly = {name: tensor + 1e-3 * torch.ones_like(tensor) for name, tensor in TRAINED[2].tensors.items()}
    family.register("again", AdapterState("lora", CONFIG, nearly), base=BASE)
    family.register("louder", scaled(TRAINED[2], MODULES[0], 1.3), base=BASE)
    refs = ["task-2", "task-5", "again", "louder", "task-2"]
    found = family.inspect.adapters(refs)
    assert (found.family, len(found.adapters)) == (None, 4)
    assert found.similarity is not None
    assert found.similarity.names == ("task-2@1", "task-5@1", "again@1", "louder@1")
    states = [family.load(ref) for ref in refs[:4]]
    expected = [[cosine(dense(one), dense(other)) for other in states] for one in states]
    np.testing.assert_allclose(found.similarity.cosines, expected, atol=1e-9)
    assert found.similarity.clusters == (("task-2@1", "again@1", "louder@1"), ("task-5@1",))
    assert [twins.names for twins in found.similarity.twins] == [("task-2@1", "again@1")]


def test_other_methods_have_norms_and_the_reason_in_words(family: AdapterStore) -> None:
    tensors = {
        "base_model.model.layer.0.vera_lambda_b": torch.tensor([3.0, 4.0]),
        "head.weight": torch.ones(2),
    }
    family.register("vera", AdapterState("vera", {}, tensors), base=BASE)
    family.register("dora", AdapterState("lora", {**CONFIG, "use_dora": True}, TRAINED[0].tensors), base=BASE)
    found = family.inspect.adapters(["vera"])
    assert (found.family, found.similarity) == (None, None)
    (vera,) = found.adapters
    assert vera.remark == "method 'vera' is no sum of low-rank updates; only 'lora' is"
    assert [(t.name, t.shape, t.norm) for t in vera.tensors] == [
        ("base_model.model.layer.0.vera_lambda_b", (2,), 5.0)
    ]
    assert (vera.norm, vera.rank, vera.modules) == (5.0, 0, ())
    several = family.inspect.adapters(["vera", "task-0", "dora", "task-1"])
    assert several.similarity is not None
    assert several.similarity.names == ("task-0@1", "task-1@1")
    assert "use_dora=True rescales the base's columns (DoRA)" in str(several.adapters[2].remark)
    assert len(several.adapters[2].tensors) == 2 * len(MODULES)


def test_adapters_of_different_bases_are_not_compared(family: AdapterStore) -> None:
    family.register("elsewhere", TRAINED[0], base=BaseModel("other", "07he5", 1))
    with pytest.raises(UsageError, match=r"different bases .*: task-0@1 on tiny-bert, elsewhere@1 on other"):
        family.inspect.adapters(["task-0", "elsewhere"])


def test_a_damaged_file_is_refused(family: AdapterStore) -> None:
    path = family._blobs.path(family.show("task-4").sha256)
    path.unlink()
    Path(path).write_bytes(b"nothing")
    with pytest.raises(IntegrityError, match=r"version 'task-4@1' in .* is damaged"):
        family.inspect.adapters(["task-0"])


def test_a_zero_adapter_and_foreign_tensors_are_no_trouble(family: AdapterStore) -> None:
    silent = {name: torch.zeros_like(tensor) for name, tensor in TRAINED[0].tensors.items()}
    family.register("silent", AdapterState("lora", CONFIG, silent), base=BASE)
    (found,) = family.inspect.adapters(["silent"]).adapters
    assert (found.norm, found.rank) == (0, 0)
    assert len(found.outliers) == len(MODULES)
    family.register("foreign", make_state(1), base=BASE)
    (found,) = family.inspect.adapters(["foreign"]).adapters
    assert found.remark == "tensor 'layer.0.query.lora_A.weight' is no factor of a LoRA adapter"


def test_everything_has_a_json_form(family: AdapterStore) -> None:
    family.register("poisoned", scaled(TRAINED[0], "layer.2.value", 30), base=BASE)
    told = json.loads(json.dumps(family.inspect.adapters(["poisoned"]).to_json(), allow_nan=False))
    assert [each["module"] for each in told["adapters"][0]["outliers"]] == ["layer.2.value"]
    assert told["adapters"][0]["modules"][0]["rank"] == 6
    assert set(told["adapters"][0]["totals"]) == {"norm", "rank", "effective_rank"}
    assert (len(told["family"]["refs"]), told["similarity"]) == (COUNT, None)
    told = json.loads(json.dumps(family.inspect.adapters(["poisoned", "task-0"]).to_json()))
    assert np.shape(told["similarity"]["cosines"]) == (2, 2)
