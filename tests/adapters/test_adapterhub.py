"""What AdapterHub's library wrote comes in, answers the same, and goes out as it was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapters_hub import (
    ADAPTERS,
    ANSWERS,
    BASE,
    FROZEN,
    FUSED,
    Reading,
    base,
    changed,
    hidden,
    loader,
    renamed,
    scores,
    spoilt,
    taken,
)
from adapters_oracle import ACTIVATIONS, FAMILIES, Array, Seen, normalised, watch
from safetensors.torch import load_file
from transformers import BertForSequenceClassification

from contpeft.adapters import AdaptedModel
from contpeft.adapters.attaching import attach_stored
from contpeft.adapters.tuners import REGISTERED
from contpeft.spec import Parent, Single
from contpeft.store import AdapterStore
from contpeft.strategies.features import Features
from contpeft.strategies.predict import Answerer

pytestmark = pytest.mark.skipif(not REGISTERED, reason="this release of PEFT is too old")
each_method = pytest.mark.parametrize("method", ADAPTERS)
PLAIN = FAMILIES["bert"].__class__(
    base, "encoder.layer", "attention.output.dense", "intermediate", "output.dense", FAMILIES["bert"].norms
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[AdapterStore]:
    opened = AdapterStore(tmp_path / "store")
    yield opened
    opened.close()


@pytest.fixture
def fused(store: AdapterStore) -> AdapterStore:
    """A store with the setup: ``both`` over ``both.sst`` and ``both.mnli``."""
    store.exchange.import_folder(FROZEN / "setup", "both", base=BASE)
    return store


@each_method
def test_an_adapter_goes_out_as_it_came_in(method: str, store: AdapterStore, tmp_path: Path) -> None:
    for given in (BASE, base(), None):
        told = given if given is not None else AdaptedModel.of(base()).base
        version = store.exchange.import_folder(ADAPTERS[method], "mine", base=told)
        assert (version.ref, version.kind, version.origin) == ("mine@1", method, "imported")
    store.exchange.export_folder("mine", tmp_path / "out", profile="adapterhub")
    assert taken(tmp_path / "out") == taken(ADAPTERS[method])


@each_method
def test_an_adapter_answers_as_it_did(method: str, store: AdapterStore) -> None:
    store.exchange.import_folder(ADAPTERS[method], "mine", base=BASE)
    theirs = ANSWERS[f"{ADAPTERS[method].name}.hidden"]
    torch.testing.assert_close(hidden(store, "mine"), theirs, rtol=0, atol=1e-6)


def test_a_fusion_answers_as_it_did(fused: AdapterStore) -> None:
    torch.testing.assert_close(hidden(fused, "both"), ANSWERS["fusion.hidden"], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("folder", "key", "reads"),
    [("setup/sst", "sst", "first token"), ("low", "low", "pooler"), ("setup", "fusion", "first token")],
)
def test_a_head_scores_as_it_did(folder: str, key: str, reads: str, store: AdapterStore) -> None:
    version = store.exchange.import_folder(FROZEN / folder, "mine", base=BASE)
    assert version.head is not None
    assert version.head.options["reads"] == reads
    torch.testing.assert_close(scores(store, "mine", reads), ANSWERS[f"{key}.scores"], rtol=0, atol=1e-6)


def test_labels_are_answered(store: AdapterStore) -> None:
    store.exchange.import_folder(ADAPTERS["pfeiffer"], "mine", base=BASE)
    adapted = AdaptedModel.of(Reading("first token"))
    answerer = Answerer(adapted, loader(store), Features(adapted))
    best = ANSWERS["sst.scores"].argmax(1).tolist()
    labels = answerer.predict(Single("mine@1"), ANSWERS["ids"].tolist(), "ids")
    assert labels == [("neg", "neu", "pos")[row] for row in best]


def test_a_setup_becomes_versions_and_goes_out_as_it_came_in(fused: AdapterStore, tmp_path: Path) -> None:
    version = fused.show("both")
    assert fused.names() == ["both", "both.mnli", "both.sst"]
    assert version.parents == (Parent("both.sst@1", "frozen"), Parent("both.mnli@1", "frozen"))
    assert [each["ref"] for each in version.config["over"]] == ["both.sst@1", "both.mnli@1"]
    fused.exchange.export_folder("both", tmp_path / "out", profile="adapterhub")
    assert taken(tmp_path / "out") == taken(FROZEN / "setup")
    again = fused.exchange.import_folder(tmp_path / "out", "both")
    assert again == version


def test_a_fusion_alone_comes_in_over_stored_members(store: AdapterStore, tmp_path: Path) -> None:
    for name in ("sst", "mnli"):
        store.exchange.import_folder(FROZEN / "setup" / name, f"my-{name}", base=BASE)
    version = store.exchange.import_folder(FUSED, "both", over=["my-sst", "my-mnli@1"])
    assert (version.kind, version.head) == ("fusion", None)
    assert version.base == store.show("my-sst").base
    torch.testing.assert_close(
        hidden_without_head(store, "both"), ANSWERS["fusion.hidden"], rtol=0, atol=1e-6
    )
    store.exchange.export_folder("both", tmp_path / "out", profile="adapterhub")
    out, whole = taken(tmp_path / "out"), taken(FROZEN / "setup")
    assert out.pop("adapter_setup.json") == {**whole.pop("adapter_setup.json"), "head_setup": None}
    assert out == {name: value for name, value in whole.items() if not name.startswith("both/")}


def hidden_without_head(store: AdapterStore, ref: str) -> torch.Tensor:
    model = base()
    attach_stored(model, store.load(ref), loader(store))
    with torch.no_grad():
        return model(ANSWERS["ids"]).last_hidden_state


def test_names_with_and_without_the_models_prefix_mean_the_same(store: AdapterStore, tmp_path: Path) -> None:
    bare = spoilt(ADAPTERS["parallel"], tmp_path / "bare", lambda _, tensors: renamed(tensors, "bert.", ""))
    first = store.exchange.import_folder(ADAPTERS["parallel"], "with", base=BASE)
    other = store.exchange.import_folder(bare, "without", base=BASE)
    assert first.fingerprint == other.fingerprint
    store.exchange.export_folder("without", tmp_path / "out", profile="adapterhub")
    assert taken(tmp_path / "out") == taken(bare)


def test_names_are_those_of_the_base_at_hand_or_of_what_is_stored_on_it(
    store: AdapterStore, tmp_path: Path
) -> None:
    with torch.random.fork_rng():
        classifier = BertForSequenceClassification(base().config)
    first = store.exchange.import_folder(ADAPTERS["houlsby"], "first", base=classifier)
    assert all(".bert.encoder." in name for name in store.load("first").tensors)
    bare = spoilt(ADAPTERS["parallel"], tmp_path / "bare", lambda _, tensors: renamed(tensors, "bert.", ""))
    store.exchange.import_folder(bare, "second", base=first.base)
    assert all(".bert.encoder." in name for name in store.load("second").tensors)


def test_a_folder_of_a_base_with_a_head_gives_the_base_it_was_exported_from(
    store: AdapterStore, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    BertForSequenceClassification(base().config).save_pretrained(tmp_path / "classifier")
    classifier = BertForSequenceClassification.from_pretrained(tmp_path / "classifier")
    version = store.exchange.import_folder(ADAPTERS["houlsby"], "first", base=classifier)
    store.exchange.export_folder("first", tmp_path / "out", profile="adapterhub")
    again = store.exchange.import_folder(tmp_path / "out", "first", base=tmp_path / "classifier")
    assert again == version


@pytest.mark.parametrize("name", ["sst", "par", "houl"])
def test_each_layer_computes_the_formula_of_the_tensors_in_the_file(name: str, store: AdapterStore) -> None:
    folder = FROZEN / "setup" / name if name == "sst" else FROZEN / name
    tensors = {key: t.double().numpy() for key, t in load_file(folder / "adapter.safetensors").items()}
    state = store.load(store.exchange.import_folder(folder, "mine", base=BASE).ref)
    model = base().double()
    attach_stored(model, state)
    told = json.loads((folder / "adapter_config.json").read_text())["config"]
    for layer, seen in enumerate(watch(model, PLAIN, ANSWERS["ids"])):
        own = model.encoder.layer[layer]
        norms = [own.attention.output.LayerNorm, norm_of(own)]
        check_layer(name, bottlenecks(tensors, layer, name, told), seen, norms)


def norm_of(layer: Any) -> Any:
    output = getattr(layer.output, "base_layer", layer.output)
    return getattr(output.LayerNorm, "base_layer", output.LayerNorm)


def bottlenecks(tensors: dict[str, Array], layer: int, name: str, told: dict[str, Any]) -> dict[str, Any]:
    """Returns ``u`` of each place of a layer that has one, of AdapterHub's tensors."""
    found = {}
    for place in ("attention.output", "output"):
        prefix = f"bert.encoder.layer.{layer}.{place}.adapters.{name}."
        own = {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}
        if own:
            scale = own.get("scaling", told["scaling"])
            act = ACTIVATIONS[told["non_linearity"]]
            found[place] = lambda z, own=own, scale=scale, act=act: (
                scale
                * (
                    act(z @ own["adapter_down.0.weight"].T + own["adapter_down.0.bias"])
                    @ own["adapter_up.weight"].T
                    + own["adapter_up.bias"]
                )
            )
    return found


def check_layer(name: str, own: dict[str, Any], seen: Seen, norms: list[Any]) -> None:
    f, x = seen.f_attention, seen.x_attention
    if "attention.output" in own:
        f = f + own["attention.output"](f)
    np.testing.assert_allclose(seen.x, normalised(norms[0], f + x), rtol=0, atol=1e-9)
    f, x = seen.f, seen.x
    u = own.get("output", np.zeros_like)
    added = {"sst": lambda: u(normalised(norms[1], f + x)), "par": lambda: u(x), "houl": lambda: u(f)}[name]()
    np.testing.assert_allclose(seen.out, normalised(norms[1], f + added + x), rtol=0, atol=1e-9)


def test_a_fused_layer_computes_the_formula_of_the_tensors_in_the_files(fused: AdapterStore) -> None:
    weights = {
        key: t.double().numpy() for key, t in load_file(FUSED / "model_adapter_fusion.safetensors").items()
    }
    members = {
        name: {
            key: t.double().numpy()
            for key, t in load_file(FROZEN / "setup" / name / "adapter.safetensors").items()
        }
        for name in ("sst", "mnli")
    }
    model = base().double()
    attach_stored(model, fused.load("both"), loader(fused))
    told = {"scaling": 1.0, "non_linearity": "relu"}
    for layer, seen in enumerate(watch(model, PLAIN, ANSWERS["ids"])):
        norm = norm_of(model.encoder.layer[layer])
        z = normalised(norm, seen.f + seen.x)
        adapters = [bottlenecks(members[name], layer, name, told)["output"] for name in members]
        u = np.stack([each(z) for each in adapters], axis=2)  # (B, T, N, H)
        part = {
            key.rpartition("sst,mnli.")[2]: t for key, t in weights.items() if f"layer.{layer}.output." in key
        }
        query = z @ part["query.weight"].T + part["query.bias"]
        keys = u @ part["key.weight"].T + part["key.bias"]
        score = np.einsum("bth,btnh->btn", query, keys)
        share = np.exp(score - score.max(-1, keepdims=True))
        share /= share.sum(-1, keepdims=True)
        mixed = np.einsum("btn,btnh->bth", share, u @ part["value.weight"].T)
        np.testing.assert_allclose(seen.out, normalised(norm, seen.f + mixed + seen.x), rtol=0, atol=1e-7)


def test_leaving_out_layers_survives(store: AdapterStore, tmp_path: Path) -> None:
    version = store.exchange.import_folder(FROZEN / "houl", "mine", base=BASE)
    assert version.config["target_modules"] == [
        "encoder.layer.1.attention.output.dropout",
        "encoder.layer.1.output.dropout",
    ]
    store.exchange.export_folder("mine", tmp_path / "out", profile="adapterhub")
    assert json.loads((tmp_path / "out/adapter_config.json").read_text())["config"]["leave_out"] == [0]


def test_a_head_without_labels_answers_their_numbers(store: AdapterStore, tmp_path: Path) -> None:
    shutil.copytree(ADAPTERS["lora"], tmp_path / "in")
    changed(
        tmp_path / "in",
        "head_config.json",
        "model_head.safetensors",
        lambda told, _: told["config"].update(label2id=None, dropout_prob=0.0),
    )
    version = store.exchange.import_folder(tmp_path / "in", "mine", base=BASE)
    assert version.head is not None
    assert version.head.classes == ("0", "1")
    store.exchange.export_folder("mine", tmp_path / "out", profile="adapterhub")
    assert taken(tmp_path / "out") == taken(tmp_path / "in")
