"""Unions: each part is what it is alone, and together they answer, are stored and go out as one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters_prompts import TOKENS, attached, llama_lm, prompt, scores
from adapters_tiny import CLASSES, IDS, bert, gpt2, logits, look, same, trained, values
from peft import PeftModel
from safetensors.torch import load_file
from torch import nn

from contpeft.adapters import AdaptedModel, check_spec, state_from_peft
from contpeft.adapters.attaching import attach_fresh
from contpeft.adapters.union import Union
from contpeft.digest import canonical_json
from contpeft.errors import NotFoundError, SpecError, UnsupportedError
from contpeft.spec import AdapterSpec, AdapterState
from contpeft.store import AdapterStore

LORA = AdapterSpec("lora", r=4)
PARALLEL = AdapterSpec("parallel", reduction_factor=4)
PREFIX = prompt("prefix_tuning")
UNIONS = {
    "lora_prefix": AdapterSpec.union(LORA, PREFIX),
    "three": AdapterSpec.union(LORA, PARALLEL, prompt("p_tuning")),
    "nested_places": AdapterSpec.union(PARALLEL, AdapterSpec("lora", targets=["dense"], r=2)),
    "mam": AdapterSpec("mam", num_virtual_tokens=TOKENS, reduction_factor=4),
    "unipelt": AdapterSpec("unipelt", num_virtual_tokens=TOKENS, reduction_factor=4, r=4),
}
each_union = pytest.mark.parametrize("name", UNIONS)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[AdapterStore]:
    opened = AdapterStore(tmp_path / "store")
    yield opened
    opened.close()


def union(model: nn.Module, spec: AdapterSpec) -> Union:
    put = attached(model, spec)
    assert isinstance(put, Union)
    return put


@each_union
def test_a_union_is_stored_and_answers_bit_for_bit(name: str) -> None:
    model = bert()
    state = trained(AdaptedModel.of(model), UNIONS[name])
    assert (state.kind, state.config["peft_type"]) == ("union", "UNION")
    told = json.loads(canonical_json(dict(state.config)))
    fresh = AdaptedModel.of(bert())
    fresh.attach_state(AdapterState(state.kind, told, state.tensors, state.head))
    fresh.load_head(state)
    assert torch.equal(logits(fresh.module), logits(model))
    again = fresh.state()
    assert again.config == state.config
    assert same(again.tensors, state.tensors)


@each_union
def test_only_the_parts_and_the_head_are_trained(name: str) -> None:
    model = bert()
    before, looks = values(model), look(model)
    adapted = AdaptedModel.of(model)
    put = union(model, UNIONS[name])
    fresh = put.tensors()
    trained(adapted, steps=3)
    parameters = {id(p) for p in model.parameters()}
    assert all(id(p) in parameters for p in put.parameters())
    assert {id(p) for p in put.trainable()} == {id(p) for p in put.parameters()}
    graded = {id(p) for p in model.parameters() if p.grad is not None}
    assert graded == {id(p) for p in [*put.trainable(), *adapted.head.parameters()]}
    assert not any(torch.equal(fresh[each], tensor) for each, tensor in put.tensors().items())
    adapted.detach()
    adapted.verify_base()
    assert {key: look(model)[key] for key in ("attributes", "hooks", "modes")} == {
        key: looks[key] for key in ("attributes", "hooks", "modes")
    }
    assert look(model)["tree"] == looks["tree"]
    rest = {key: value for key, value in values(model).items() if not key.startswith("classifier")}
    assert same(rest, {key: before[key] for key in rest})


@pytest.mark.parametrize("name", ["lora_prefix", "three", "nested_places", "mam"])
def test_the_tensors_of_a_part_are_those_of_the_part_alone(name: str) -> None:
    model = bert()
    torch.manual_seed(5)
    put = AdaptedModel.of(model).attach(UNIONS[name])
    assert isinstance(put, Union)
    torch.manual_seed(5)
    alone: dict[str, Any] = {}
    plain = bert()
    for number, config in enumerate(put.config_json()["parts"]):
        method = config["peft_type"].lower()
        given = next(each for each in _parts(UNIONS[name]) if each.method == method)
        part = attach_fresh(plain, given, plain.classifier)
        assert part.config_json() == config
        alone |= {f"{number}.{key}": tensor for key, tensor in part.tensors().items()}
        part.remove()
    assert same(put.tensors(), alone)
    # What is in use goes by the same names, but for what a network makes.
    assert put.named_parameters().keys() == {
        key for key in alone if not (name == "three" and key.startswith("2."))
    }


def _parts(spec: AdapterSpec) -> list[AdapterSpec]:
    if spec.method == "mam":
        return [PARALLEL, PREFIX]
    return [AdapterSpec.from_json(each) for each in spec.options["parts"]]


@pytest.mark.parametrize("make", [bert, gpt2, llama_lm])
def test_parts_at_a_time_make_the_same_model(make: Any) -> None:
    model, other = make(), make()
    put = union(model, UNIONS["lora_prefix"])
    lora, prefix = put.parts
    attach_fresh(other, LORA, None).load(lora_tensors := _alone(put, lora))
    attach_fresh(other, PREFIX, None).load(_alone(put, prefix))
    expected = scores(other, IDS)
    assert torch.equal(scores(model, IDS), expected)
    one = make()
    attach_fresh(one, LORA, None).load(lora_tensors)
    assert (scores(one, IDS) - expected).abs().max() > 1e-4


def _alone(put: Union, part: Any) -> dict[str, torch.Tensor]:
    with put.removed():
        tensors: dict[str, torch.Tensor] = part.tensors()
    return tensors


def test_places_inside_one_another_work_together_and_come_apart() -> None:
    model = bert()
    looks, start = look(model), logits(model)
    put = union(model, UNIONS["nested_places"])
    assert (logits(model) - start).abs().max() > 1e-3
    with put.removed():
        assert torch.equal(logits(model), start)
        assert look(model)["tree"] == looks["tree"]
    for _ in range(2):
        answered = logits(model)
        put.remove()
        put.install()
        assert torch.equal(logits(model), answered)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            AdapterSpec.union(LORA, AdapterSpec("ia3")),
            r"parts 0 and 1 of the union both change 'bert\.encoder\.layer\.0\.attention\.self\.query'; give",
        ),
        (
            AdapterSpec.union(prompt(), LORA, PREFIX),
            "parts 0 and 2 .* what BertForSequenceClassification reads",
        ),
        (AdapterSpec.union(LORA), "a union is of two parts or more"),
        (AdapterSpec("union"), "a union is of two parts or more"),
        (AdapterSpec.union(LORA, UNIONS["mam"]), "a part of a union is a union itself; give its parts"),
        (AdapterSpec("union", parts=[{"method": "lora"}] * 2, gate=True), "no option 'gate'; did you mean"),
        (AdapterSpec("union", parts=[{"method": "lora"}] * 2, gated=2), "gated is 2; say true or false"),
        (AdapterSpec.union(LORA, AdapterSpec("prefix_tunning")), "did you mean 'prefix_tuning'"),
        (AdapterSpec.union(LORA, AdapterSpec("fourierft", n_frequency=10**6)), "`n_frequency` should be"),
        (AdapterSpec("mam", r=4), "method 'mam' has no option 'r'"),
        (
            AdapterSpec("p_tuning_v2", prefix_projection=True),
            "'p_tuning_v2' has no option 'prefix_projection'",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_and_leaves_no_trace(spec: AdapterSpec, message: str) -> None:
    model = bert()
    looks, start = look(model), logits(model)
    with pytest.raises(SpecError, match=message):
        AdaptedModel.of(model).attach(spec)
    assert look(model) == looks
    assert torch.equal(logits(model), start)


def test_a_spec_is_checked_without_a_model() -> None:
    for spec in UNIONS.values():
        check_spec(spec)
        assert AdapterSpec.from_json(json.loads(canonical_json(spec.to_json()))) == spec
    with pytest.raises(SpecError, match="no option 'rank'"):
        check_spec(AdapterSpec.union(LORA, AdapterSpec("lora", rank=2)))


def test_all_of_it_is_loaded_or_nothing() -> None:
    model = bert()
    put = union(model, UNIONS["three"])
    before = put.tensors()
    other = {name: tensor + 1 for name, tensor in before.items()}
    for wrong, message in (
        ({**other, "2.prompt_embeddings": torch.zeros(1, 2)}, r"shape \(1, 2\)"),
        ({**other, "3.more": torch.zeros(1)}, "3.more is of none of the 3 parts"),
        ({name: t for name, t in other.items() if not name.startswith("1.")}, "tensors missing"),
    ):
        with pytest.raises(SpecError, match=message):
            put.load(wrong)
        assert same(put.tensors(), before)
    put.load(other)
    assert same(put.tensors(), other)


def test_stored_tensors_that_belong_to_no_part_are_refused() -> None:
    model = bert()
    state = trained(AdaptedModel.of(model), UNIONS["lora_prefix"])
    looks = look(bert())
    for name in ("2.more", "gates.0.weight"):
        fresh = bert()
        wrong = AdapterState(state.kind, state.config, {**state.tensors, name: torch.zeros(1)}, state.head)
        with pytest.raises(SpecError, match=r"of none of the 2 parts|the union has no gates"):
            AdaptedModel.of(fresh).attach_state(wrong)
        assert look(fresh)["attributes"] == looks["attributes"]
        assert not AdaptedModel.of(fresh).active


@pytest.mark.parametrize("name", ["lora_prefix", "mam"])
def test_peft_puts_the_exported_parts_in_one_after_another(
    name: str, store: AdapterStore, tmp_path: Path
) -> None:
    model = bert()
    adapted = AdaptedModel.of(model)
    state = trained(adapted, UNIONS[name], classes=CLASSES)
    store.register("colours", state, base=adapted.base)
    made = store.exchange.export_folder("colours", tmp_path / "out")
    folders = sorted({file.partition("/")[0] for file in made.files} - {"contpeft"})
    assert [each.partition("-")[0] for each in folders] == [str(n) for n in range(len(folders))]
    theirs = bert()
    theirs.classifier.load_state_dict(load_file(tmp_path / "out" / "contpeft" / "head.safetensors"))
    answering: nn.Module = theirs
    for each in folders:
        answering = PeftModel.from_pretrained(theirs, tmp_path / "out" / each).eval()
    torch.testing.assert_close(logits(answering), logits(model), rtol=0, atol=1e-7)
    with pytest.raises(NotFoundError, match=f"no adapter_config.json in .*{folders[0]}"):
        store.exchange.import_folder(tmp_path / "out", "again")
    part = tmp_path / "out" / folders[-1]
    found = state_from_peft(
        json.loads((part / "adapter_config.json").read_text()), load_file(part / "adapter_model.safetensors")
    )
    assert found.config == state.config["parts"][-1]


def test_gates_have_no_place_in_a_folder_of_peft(store: AdapterStore, tmp_path: Path) -> None:
    adapted = AdaptedModel.of(bert())
    store.register("colours", trained(adapted, UNIONS["unipelt"]), base=adapted.base)
    with pytest.raises(
        UnsupportedError, match="colours@1 is a union with gates, for which PEFT has no place"
    ):
        store.exchange.export_folder("colours", tmp_path / "out")
    assert not (tmp_path / "out").exists()
