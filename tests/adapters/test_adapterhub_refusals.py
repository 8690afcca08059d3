"""Folders of AdapterHub's that are not wholly understood: refused in one line, and nothing is stored."""

from __future__ import annotations

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
    Spoil,
    base,
    changed,
    options,
    pickled,
    refused,
    renamed,
    spoilt,
)
from adapters_tiny import bert

from contpeft.adapters import AdaptedModel
from contpeft.adapters.tuners import REGISTERED
from contpeft.errors import (
    BaseMismatchError,
    ContpeftError,
    IntegrityError,
    NotFoundError,
    SpecError,
    UnsupportedError,
    UsageError,
)
from contpeft.store import AdapterStore

pytestmark = pytest.mark.skipif(not REGISTERED, reason="this release of PEFT is too old")
OUT = "bert.encoder.layer.{}.output.adapters.sst.{}"
UP, SIZE = OUT.format(1, "adapter_up.weight"), (4, 2)
PROMPT = "bert.prompt_tuning.prompt_tunings.sst.prompt_embedding.weight"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[AdapterStore]:
    opened = AdapterStore(tmp_path / "store")
    yield opened
    opened.close()


TENSORS: dict[str, tuple[Spoil, type[ContpeftError], str]] = {
    "a tensor less": (lambda c, t: t.pop(UP), SpecError, f"tensor '{UP}' is missing"),
    "a layer less": (
        lambda c, t: [t.pop(name) for name in list(t) if "layer.1" in name],
        SpecError, "layer.1.output.adapters.sst.adapter_down.0.bias' is missing",
    ),
    "a layer more": (
        lambda c, t: t.update({name.replace("layer.1", "layer.2"): t[name].clone() for name in list(t)
                               if "layer.1" in name}),
        SpecError, "layer.2.output.adapters.sst.adapter_down.0.bias' is unexpected",
    ),
    "a tensor more": (
        lambda c, t: t.update({OUT.format(0, "gate.weight"): torch.ones(1, 4)}),
        SpecError, "gate.weight' is unexpected: the configuration does not ask for it",
    ),
    "a weight of the base": (
        lambda c, t: t.update({"bert.encoder.layer.0.output.dense.weight": torch.ones(4, 8)}),
        SpecError, "output.dense.weight' is unexpected: it is no part of 'sst'",
    ),
    "another adapter whose name begins alike": (
        lambda c, t: t.update({UP.replace("sst", "sst2"): torch.ones(SIZE)}),
        SpecError, "adapters.sst2.adapter_up.weight' is unexpected: it is no part of 'sst'",
    ),
    "tensors of a soft prompt": (
        lambda c, t: t.update({PROMPT: torch.ones(2, 4)}),
        SpecError, "prompt_embedding.weight' is unexpected",
    ),
    "another shape": (
        lambda c, t: t.update({UP: torch.ones(4, 3)}),
        SpecError, r"adapter_up.weight' is torch.float32 of shape \(4, 3\); .* shape \(4, 2\)",
    ),
    "integers": (
        lambda c, t: t.update({UP: torch.ones(SIZE, dtype=torch.int64)}),
        SpecError, "is torch.int64 of shape",
    ),
    "a prefix here and none there": (
        lambda c, t: t.update({UP.removeprefix("bert."): t.pop(UP)}),
        SpecError, "'encoder.layer.1.output.* lacks the prefix 'bert.' that others have",
    ),
    "another width": (
        lambda c, t: c.update(hidden_size=8),
        BaseMismatchError, "is for a base of hidden_size 8, the one given has 4",
    ),
    "another kind of model": (
        lambda c, t: (c.update(model_type="electra"), renamed(t, "bert.", "electra.")),
        BaseMismatchError, "is for a base of model_type 'electra', the one given has 'bert'",
    ),
    "an unknown kind of model": (
        lambda c, t: c.update(model_type="gpt2"),
        UnsupportedError, "models of type 'gpt2' are not known here",
    ),
    "a width that is none": (
        lambda c, t: c.update(hidden_size="4"),
        SpecError, "hidden_size '4', which is no",
    ),
    "a comma in the name": (
        lambda c, t: c.update(name="a,b"), SpecError, "is named 'a,b'; names .* without comma or dot",
    ),
    "a dot in the name": (lambda c, t: c.update(name="a.b"), SpecError, "is named 'a.b'; names .* without"),
    "no name": (lambda c, t: c.pop("name"), SpecError, "is named None"),
    "a name of torch's": (
        lambda c, t: c.update(name="double"),
        SpecError, "as torch's modules name something",
    ),
    "no configuration": (lambda c, t: c.update(config="seq_bn"), SpecError, "has no object 'config'"),
    "not a number": (
        lambda c, t: t.update({UP: torch.full(SIZE, torch.nan)}),
        IntegrityError, "values that are NaN or infinite",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TENSORS)
def test_tensors_that_are_not_those_of_the_configuration(
    case: str, store: AdapterStore, tmp_path: Path
) -> None:
    spoil, error, match = TENSORS[case]
    refused(store, spoilt(ADAPTERS["pfeiffer"], tmp_path / "in", spoil), error, match)


OPTIONS: dict[str, tuple[str, dict[str, Any], str]] = {
    "invertible": ("pfeiffer", {"inv_adapter": "nice"}, "inv_adapter='nice' .*invertible adapter"),
    "gate": ("pfeiffer", {"use_gating": True}, "use_gating=True is not taken in: a gate"),
    "norm before": ("pfeiffer", {"ln_before": True}, "ln_before=True .*normalisation of its own before"),
    "norm after": ("houlsby", {"ln_after": True}, "ln_after=True .*normalisation of its own after"),
    "no norm": ("houlsby", {"original_ln_after": False}, "original_ln_after=False"),
    "residual": ("pfeiffer", {"residual_before_ln": "post_add"}, "residual_before_ln='post_add' .*another"),
    "phm": ("pfeiffer", {"phm_layer": True}, "phm_layer=True .*Kronecker"),
    "dropout": ("pfeiffer", {"dropout": 0.1}, "dropout=0.1 .*in training only"),
    "depth": ("parallel", {"stochastic_depth": 0.1}, "stochastic_depth=0.1"),
    "cross": ("houlsby", {"cross_adapter": True}, "cross_adapter=True .*cross-attention"),
    "a zero that is false": ("pfeiffer", {"dropout": False}, "dropout=False"),
    "placement": ("pfeiffer", {"mh_adapter": True}, "the placement mh_adapter=True, .* is none of seq_bn"),
    "placement of no flags": ("pfeiffer", {"mh_adapter": []}, r"the placement mh_adapter=\[\]"),
    "factors": ("pfeiffer", {"reduction_factor": {"0": 2, "default": 4}}, "reduction_factor=.*one number"),
    "channels": ("pfeiffer", {"scaling": "channel"}, "scaling='channel'"),
    "activation": ("pfeiffer", {"non_linearity": "mish"}, "no non_linearity 'mish'"),
    "unknown": ("pfeiffer", {"lookahead": 2}, "key 'lookahead' of the configuration is not known"),
    "prefix": ("pfeiffer", {"architecture": "prefix_tuning"}, "architecture='prefix_tuning' is not taken in"),
    "union": ("pfeiffer", {"architecture": "union"}, "architecture='union' is not taken in"),
    "dora": ("lora", {"use_dora": True}, "use_dora=True .*DoRA"),
    "vera": ("lora", {"vera_d": 0.1}, "vera_d=0.1 .*VeRA"),
    "ia3": ("lora", {"composition_mode": "scale"}, "composition_mode='scale' .*IA"),
    "gated lora": ("lora", {"use_gating": True}, "use_gating=True"),
    "matrices": ("lora", {"attn_matrices": ["q", "o"]}, "is no list of q, k and v"),
}  # fmt: skip


@pytest.mark.parametrize("case", OPTIONS)
def test_options_that_contpeft_does_not_have(case: str, store: AdapterStore, tmp_path: Path) -> None:
    method, values, match = OPTIONS[case]
    folder = spoilt(ADAPTERS[method], tmp_path / "in", lambda told, _: options(told, **values))
    refused(store, folder, UnsupportedError, match)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"r": 0}, "r=0 is no rank"),
        ({"leave_out": ["1"]}, "is no list of layers"),
        ({"leave_out": [1]}, "layer.1.attention.self.query.loras.low.lora_A' is unexpected"),
        ({"r": 4}, r"query.loras.low.lora_A. is .* of shape \(2, 4\); .* shape \(4, 4\)"),
        ({"attn_matrices": ["q", "k", "v"]}, "attention.self.key.loras.low.lora_A' is missing"),
        ({"output_lora": False}, "output.dense.loras.low.lora_A' is unexpected"),
    ],
)
def test_lora_that_is_not_what_it_says(
    values: dict[str, Any], match: str, store: AdapterStore, tmp_path: Path
) -> None:
    folder = spoilt(ADAPTERS["lora"], tmp_path / "in", lambda told, _: options(told, **values))
    refused(store, folder, SpecError, match)


def test_without_a_base_nothing_comes_in(store: AdapterStore) -> None:
    refused(store, ADAPTERS["lora"], UsageError, "names its base by a path alone .*--base", base=None)


def test_the_wrong_model_is_refused(store: AdapterStore) -> None:
    refused(store, ADAPTERS["lora"], BaseMismatchError, "hidden_size 4, the one given has 16", base=bert())


def test_a_layer_less_is_not_seen_without_a_model_but_seen_with_one(
    store: AdapterStore, tmp_path: Path
) -> None:
    folder = spoilt(ADAPTERS["pfeiffer"], tmp_path / "in", TENSORS["a layer less"][0])
    store.exchange.import_folder(folder, "short", base=AdaptedModel.of(base()).base)
    refused(store, folder, SpecError, "is missing")


HEADS: dict[str, tuple[Spoil, type[ContpeftError], str]] = {
    "tagging": (
        lambda c, t: options(c, head_type="tagging"),
        UnsupportedError, "head_type='tagging' is not taken",
    ),
    "three layers": (lambda c, t: options(c, layers=3), UnsupportedError, "layers=3 is not taken in"),
    "one layer of two": (
        lambda c, t: options(c, layers=1),
        SpecError, "heads.sst.4.bias' of the head is unexpected",
    ),
    "a head whose name begins alike": (
        lambda c, t: t.update({"heads.sst2.1.weight": torch.ones(4, 4)}),
        SpecError, "'heads.sst2.1.weight' of the",
    ),
    "no bias": (
        lambda c, t: t.pop("heads.sst.4.bias"),
        SpecError, "'heads.sst.4.bias' of the head is missing",
    ),
    "a shape": (
        lambda c, t: t.update({"heads.sst.4.bias": torch.ones(2)}),
        SpecError, r"shape \(2,\); .* \(3,\)",
    ),
    "labels": (
        lambda c, t: options(c, label2id={"a": 0, "b": 1, "c": 1}),
        SpecError, "does not name each of its 3",
    ),
    "labels of text": (lambda c, t: options(c, label2id={"a": "0"}), SpecError, "maps no labels to numbers"),
    "regression": (
        lambda c, t: options(c, num_labels=1),
        UnsupportedError, "num_labels=1 tells no classes apart",
    ),
    "activation": (
        lambda c, t: options(c, activation_function="mish"),
        UnsupportedError, "activation_function='mish'",
    ),
    "unknown": (lambda c, t: options(c, temperature=2), SpecError, "key 'temperature' of the head"),
    "a static head": (
        lambda c, t: c.update(config=None),
        UnsupportedError, "is the head of the class 'BertAdapterModel'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HEADS)
def test_heads_that_are_not_taken_in(case: str, store: AdapterStore, tmp_path: Path) -> None:
    spoil, error, match = HEADS[case]
    shutil.copytree(ADAPTERS["pfeiffer"], tmp_path / "in")
    changed(tmp_path / "in", "head_config.json", "model_head.safetensors", spoil)
    refused(store, tmp_path / "in", error, match)


def test_a_head_without_a_file_or_without_a_configuration(store: AdapterStore, tmp_path: Path) -> None:
    for name, error, match in (
        ("head_config.json", SpecError, "is a head that nothing declares"),
        ("model_head.safetensors", NotFoundError, "there is no file .*model_head.safetensors"),
    ):
        folder = tmp_path / name
        shutil.copytree(ADAPTERS["pfeiffer"], folder)
        (folder / name).unlink()
        refused(store, folder, error, match)


def test_pickles_are_read_only_when_asked_for(store: AdapterStore, tmp_path: Path) -> None:
    shutil.copytree(ADAPTERS["pfeiffer"], tmp_path / "in")
    pickled(tmp_path / "in")
    refused(store, tmp_path / "in", UnsupportedError, "pytorch_adapter.bin is a pickle, .*--pickle")
    version = store.exchange.import_folder(tmp_path / "in", "mine", base=BASE, pickle=True)
    assert version == store.exchange.import_folder(ADAPTERS["pfeiffer"], "mine", base=BASE)
    shutil.copytree(FROZEN / "setup", tmp_path / "setup")
    for folder in ("sst", "mnli", "both", "sst,mnli"):
        pickled(tmp_path / "setup" / folder)
    version = store.exchange.import_folder(tmp_path / "setup", "both", base=BASE, pickle=True)
    assert version == store.exchange.import_folder(FROZEN / "setup", "both", base=BASE)


LEGACY: dict[str, tuple[Spoil, str]] = {
    "no version": (lambda c, t: c.pop("version"), "it has no version"),
    "nested": (
        lambda c, t: options(c, invertible_adapter=None), "it has a nested invertible_adapter",
    ),
    "names": (
        lambda c, t: renamed(t, ".adapters.", ".layer_text_task_adapters."),
        "layer_text_task_adapters.sst.adapter_down.0.bias' would be 'bert.encoder.layer.0.output.ad",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LEGACY)
def test_folders_of_before_come_in_only_when_asked_for(
    case: str, store: AdapterStore, tmp_path: Path
) -> None:
    spoil, match = LEGACY[case]
    folder = spoilt(ADAPTERS["pfeiffer"], tmp_path / "in", spoil)
    refused(store, folder, UnsupportedError, f"is of an older release.*{match}.*--legacy")
    version = store.exchange.import_folder(folder, "mine", base=BASE, legacy=True)
    assert version == store.exchange.import_folder(ADAPTERS["pfeiffer"], "mine", base=BASE)
