"""The form that every engine reads: one rank, no scaling, every layer of a type, the same answers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters_tiny import IDS, bert, gpt2, logits
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import BertModel

from contpeft.adapters import AdaptedModel, AnySpec, serving_state
from contpeft.errors import BaseMismatchError, UnsupportedError, UsageError
from contpeft.spec import AdapterSpec, AdapterState
from contpeft.store import AdapterStore

SELF = "base_model.model.bert.encoder.layer.{}.attention.self.{}.lora_{}.weight"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[AdapterStore]:
    opened = AdapterStore(tmp_path / "store")
    yield opened
    opened.close()


def filled(model: nn.Module, spec: AnySpec, std: float = 1.0) -> AdaptedModel:
    """Attaches an adapter with random factors."""
    adapted = AdaptedModel.of(model)
    torch.manual_seed(1)
    for parameter in adapted.attach(spec).parameters():
        nn.init.normal_(parameter, std=std)
    return adapted


def state_of(**options: Any) -> AdapterState:
    return filled(bert(), LoraConfig(**{"target_modules": ["query", "value"], **options})).state()


# Of two layer types and one layer, as each model calls them.
PLACES = {
    bert: ("query", "value", "bert.encoder.layer.1.attention.self.value"),
    gpt2: ("c_attn", "c_fc", "transformer.h.1.mlp.c_fc"),
}
OPTIONS: dict[str, Any] = {
    "alpha": lambda one, two, path: {"r": 3, "lora_alpha": 7},
    "rslora": lambda one, two, path: {"r": 16, "use_rslora": True},
    "ranks": lambda one, two, path: {"r": 4, "rank_pattern": {two: 9, rf"1\..*{one}": 2}},
    "alphas": lambda one, two, path: {"lora_alpha": 5, "alpha_pattern": {one: 1.5, rf".*0\..*{two}": 40}},
    "all": lambda one, two, path: {
        **{"r": 2, "lora_alpha": 1, "use_rslora": True},
        **{"rank_pattern": {path: 12}, "alpha_pattern": {path: 3}},
    },
}


@pytest.mark.parametrize("kind", OPTIONS)
@pytest.mark.parametrize("make", PLACES)
def test_the_same_answers_in_one_rank(make: Any, kind: str, store: AdapterStore, tmp_path: Path) -> None:
    targets, options = list(PLACES[make][:2]), OPTIONS[kind](*PLACES[make])
    model = make()
    adapted = filled(model, LoraConfig(target_modules=targets, **options))
    store.register("one", adapted.state(), base=adapted.base)
    ids = IDS[:, :5]
    expected = logits(model, ids)
    effect = (expected - logits(make(), ids)).abs().max()
    assert effect > 1e-3
    store.exchange.export_folder("one", tmp_path / "out", profile="serving")
    told = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    rank = 8 if kind in ("alpha", "alphas") else 16
    assert (told["r"], told["lora_alpha"], told["use_rslora"]) == (rank, rank, False)
    assert (told["rank_pattern"], told["alpha_pattern"], told["target_modules"]) == ({}, {}, targets)
    served = PeftModel.from_pretrained(make(), tmp_path / "out").eval()
    assert (logits(served, ids) - expected).abs().max() < 1e-4 * effect
    found = store.exchange.import_folder(tmp_path / "out", "served", base=make())
    assert found.base == adapted.base
    assert found.recipe is not None
    assert found.recipe["imported"]["profile"] == "serving"


def test_scaling_is_folded_exactly() -> None:
    state = state_of(r=3, lora_alpha=7, use_rslora=True)
    served = serving_state(state)
    for layer, part in ((0, "query"), (1, "value")):
        a, b = (state.tensors[SELF.format(layer, part, factor)] for factor in "AB")
        folded_a, folded_b = (served.tensors[SELF.format(layer, part, factor)] for factor in "AB")
        assert (folded_a.shape, folded_b.shape) == ((8, 16), (16, 8))
        assert torch.equal(folded_a[:3], a)
        assert torch.equal(folded_b[:, :3], (b.double() * (7 / math.sqrt(3))).float())
        assert not folded_a[3:].any()
        assert not folded_b[:, 3:].any()


@pytest.mark.parametrize(("rank", "served"), [(1, 1), (2, 8), (8, 8), (9, 16), (257, 320), (512, 512)])
def test_ranks_go_up_to_the_next_one_offered(rank: int, served: int) -> None:
    factors = serving_state(state_of(r=rank)).tensors
    assert {tuple(t.shape) for t in factors.values()} == {(served, 16), (16, served)}


def test_more_than_engines_offer_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="up to rank 512, this one has 513"):
        serving_state(state_of(r=513))


def test_layers_left_out_get_zero_factors() -> None:
    state = state_of(target_modules=["0.attention.self.query", "1.attention.self.value"])
    with pytest.raises(UsageError, match=r"give the base .*, whose layers can be counted"):
        serving_state(state)
    served = serving_state(state, bert())
    names = {
        SELF.format(layer, part, factor) for layer in (0, 1) for part in ("query", "value") for factor in "AB"
    }
    assert served.tensors.keys() == names
    zero = {name for name, tensor in served.tensors.items() if not tensor.any()}
    assert zero == {SELF.format(*place, factor) for place in ((0, "value"), (1, "query")) for factor in "AB"}
    assert served.config["target_modules"] == ["query", "value"]


@pytest.mark.parametrize(
    "options",
    [
        {"layers_to_transform": [1]},
        {"exclude_modules": ["0.attention.self.query", "0.attention.self.value"]},
        {"target_modules": r".*layer\.1\.attention\.self\.(query|value)"},
    ],
    ids=["layers", "excluded", "regex"],
)
def test_only_the_base_knows_what_a_choice_of_layers_left_out(options: dict[str, Any]) -> None:
    state = state_of(**options)
    with pytest.raises(UsageError, match="which layers the adapter leaves out cannot be told"):
        serving_state(state)
    served = serving_state(state, bert())
    for part in ("query", "value"):
        assert not served.tensors[SELF.format(0, part, "B")].any()
        assert served.tensors[SELF.format(1, part, "B")].any()
    assert (served.config["layers_to_transform"], served.config["exclude_modules"]) == (None, None)
    model = bert()
    filled(model, LoraConfig(**{"target_modules": ["query", "value"], **options}))
    expected = logits(model)
    fresh = AdaptedModel.of(bert())
    fresh.attach_state(served)
    torch.testing.assert_close(logits(fresh.module), expected, rtol=1e-5, atol=1e-6)


def test_a_type_met_elsewhere_gets_factors_of_its_own_shape(store: AdapterStore, tmp_path: Path) -> None:
    model = bert()
    adapted = filled(model, AdapterSpec("lora", targets=["output.dense"]))
    store.register("one", adapted.state(), base=adapted.base)
    bert().save_pretrained(tmp_path / "base")
    store.exchange.export_folder("one", tmp_path / "out", profile="serving", base=tmp_path / "base")
    factors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    shapes = {name.removeprefix("base_model.model.bert."): tuple(t.shape) for name, t in factors.items()}
    assert shapes["encoder.layer.1.intermediate.dense.lora_B.weight"] == (32, 8)
    assert shapes["pooler.dense.lora_A.weight"] == (8, 16)
    assert len(factors) == 2 * (3 * 2 + 1)
    served = PeftModel.from_pretrained(bert(), tmp_path / "out").eval()
    torch.testing.assert_close(logits(served), logits(model), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_dora": True}, "no place for option use_dora=True"),
        ({"lora_bias": True}, "no place for option lora_bias=True"),
        ({"trainable_token_indices": [1]}, r"no place for option trainable_token_indices=\[1\]"),
        (
            {"target_modules": ["word_embeddings"]},
            "not 'base_model.model.bert.embeddings.word_embeddings.lora_em",
        ),
    ],
)
def test_what_engines_have_no_place_for_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        serving_state(state_of(**options))


def test_other_methods_are_refused_by_name() -> None:
    with pytest.raises(
        UnsupportedError, match="this one is of method 'ia3'; export it with the profile 'faith"
    ):
        serving_state(filled(bert(), AdapterSpec("ia3")).state())


def test_another_base_is_refused() -> None:
    narrow = BertModel(bert().config)
    with pytest.raises(BaseMismatchError, match="and BertModel has no such layer"):
        serving_state(state_of(), narrow)


def test_half_precision_is_kept() -> None:
    state = state_of(r=3)
    halved: dict[str, Tensor] = {name: t.bfloat16() for name, t in state.adapter_tensors().items()}
    served = serving_state(AdapterState("lora", state.config, halved))
    assert {t.dtype for t in served.tensors.values()} == {torch.bfloat16}
