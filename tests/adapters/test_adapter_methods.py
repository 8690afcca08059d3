"""Every method: trained alone, taken out without a trace, read back bit for bit."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from adapters_methods import OTHERWISE_TRAINED, each_method, each_set_of_layers, quiet, spec
from adapters_tiny import IDS, QUERY, bert, gpt2, logits, look, same, trained, values
from peft import IA3Config, LoraConfig, PeftConfig, PromptTuningConfig, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

from contpeft.adapters import AdaptedModel, check_spec, method_names
from contpeft.adapters.methods import config_from_json, config_to_json, make_config
from contpeft.digest import canonical_json
from contpeft.errors import SpecError, UnsupportedError
from contpeft.spec import AdapterSpec, AdapterState

# Starting values that are not the identity, or only up to rounding.
INEXACT_START = {
    "c3a": 1e-3,
    "fourierft": 1e-1,
    "frod": 1e-6,
    "hra": 1e-6,
    "mam": 0.1,
    "p_tuning": 0.1,
    "p_tuning_v2": 0.1,
    "prefix_tuning": 0.1,
    "prompt_tuning": 0.1,
    "olora": 1e-6,
    "osf": 1e-6,
    "pissa": 1e-6,
    "unilora": 1e-4,
    "unipelt": 0.1,
    "vblora": 1e-4,
}

pytestmark = pytest.mark.usefixtures("no_compiler")


@quiet
@each_method
def test_a_method_leaves_the_base_alone_and_no_trace(method: str) -> None:
    model = bert()
    before, looks = values(model), look(model)
    adapted = AdaptedModel.of(model)
    fingerprint = adapted.base.fingerprint
    start = logits(model)
    adapted.attach(spec(method))
    torch.testing.assert_close(logits(model), start, rtol=0, atol=INEXACT_START.get(method, 0))
    trained(adapted)
    assert (logits(model) - start).abs().max() > 1e-6
    adapted.detach()
    after = values(model)
    head = {name for name in before if name.startswith("classifier.")}
    assert same(
        {k: v for k, v in before.items() if k not in head}, {k: after[k] for k in after if k not in head}
    )
    assert not any(torch.equal(before[name], after[name]) for name in head)
    assert look(model) == looks
    assert adapted.verify_base().fingerprint == fingerprint


@quiet
@each_set_of_layers
def test_only_what_the_method_trains_and_the_head_get_gradients(method: str) -> None:
    model = bert()
    adapted = AdaptedModel.of(model)
    attachment = adapted.attach(spec(method))
    trainable = adapted.train_only()
    trained(adapted, steps=1)
    graded = {name for name, p in model.named_parameters() if p.grad is not None}
    assert graded == {name for name, p in model.named_parameters() if p.requires_grad}
    assert {id(p) for p in trainable} == {id(p) for p in model.parameters() if p.requires_grad}
    if method in OTHERWISE_TRAINED:
        adapter = graded - {"classifier.weight", "classifier.bias"}
        assert {name.partition("self.")[2] for name in adapter} == OTHERWISE_TRAINED[method]
        assert len(adapter) == len(attachment.trainable()) == 2 * len(OTHERWISE_TRAINED[method])
        return
    # PEFT's own choice on an equal model.
    other = bert()
    get_peft_model(other, make_config(spec(method), other, other.classifier), adapter_name="current")
    assert len(attachment.trainable()) == sum(p.requires_grad for p in other.parameters())
    assert graded - {"classifier.weight", "classifier.bias"} == {
        name for name, p in other.named_parameters() if p.requires_grad
    }


@quiet
@each_method
def test_a_stored_adapter_answers_bit_for_bit_on_a_fresh_model(method: str) -> None:
    model = bert()
    state = trained(AdaptedModel.of(model), spec(method))
    stored = AdapterState(
        state.kind, json.loads(canonical_json(dict(state.config))), dict(state.tensors), state.head
    )
    fresh = AdaptedModel.of(bert())
    torch.manual_seed(99)
    fresh.attach_state(stored)
    fresh.load_head(stored)
    assert torch.equal(logits(fresh.module), logits(model))
    live = fresh.attachment.named_parameters()
    assert same(
        {name: p.detach() for name, p in live.items()}, {n: t for n, t in state.tensors.items() if n in live}
    )
    again = fresh.state()
    assert again.config == state.config
    assert same(again.tensors, state.tensors)


def test_names_on_disk_are_those_of_peft() -> None:
    adapted = AdaptedModel.of(bert())
    state = trained(adapted)
    live = adapted.attachment.named_parameters()
    assert live.keys() == state.adapter_tensors().keys()
    assert {*map(id, live.values())} == {*map(id, adapted.attachment.trainable())}
    assert sorted(state.tensors) == sorted(
        [
            *(
                f"base_model.model.bert.encoder.layer.{layer}.attention.self.{part}.lora_{factor}.weight"
                for layer in (0, 1)
                for part in ("query", "value")
                for factor in "AB"
            ),
            "head.bias",
            "head.weight",
        ]
    )
    assert state.kind == "lora"
    assert state.tensors[f"base_model.model.{QUERY}.lora_A.weight"].shape == (8, 16)


def test_defaults_of_lora() -> None:
    config = make_config(AdapterSpec("lora", r=4), bert())
    assert (config.r, config.lora_alpha, config.target_modules) == (4, 8, {"query", "value"})


def test_short_names_stand_for_what_a_method_calls_them() -> None:
    lora = make_config(AdapterSpec("lora", alpha=3, dropout=0.25, targets=["key"]), bert())
    assert (lora.lora_alpha, lora.lora_dropout, lora.target_modules) == (3, 0.25, {"key"})
    loha = make_config(AdapterSpec("loha", alpha=3, dropout=0.25), bert())
    assert (loha.alpha, loha.module_dropout) == (3, 0.25)


def test_a_configuration_travels_as_json() -> None:
    config = make_config(AdapterSpec("lora", rank_pattern={"query": 2}, targets=("value", "query")), bert())
    told = json.loads(canonical_json(config_to_json(config)))
    assert told["peft_type"] == "LORA"
    assert told["target_modules"] == ["query", "value"]
    assert {"base_model_name_or_path", "peft_version", "inference_mode"}.isdisjoint(told)
    assert config_to_json(config_from_json(told)) == told


def test_a_key_of_another_release_is_not_dropped() -> None:
    told = config_to_json(make_config(AdapterSpec("lora"), bert())) | {"use_magic": True}
    with pytest.raises(SpecError, match="keys this release of PEFT does not know: use_magic"):
        config_from_json(told)


def test_a_stored_configuration_reaches_no_further_than_a_fresh_one() -> None:
    told = config_to_json(make_config(AdapterSpec("lora"), bert())) | {"modules_to_save": ["classifier"]}
    with pytest.raises(UnsupportedError, match="option modules_to_save="):
        config_from_json(told)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (AdapterSpec("lorra"), "no adapter method 'lorra'; did you mean 'lora'?"),
        (AdapterSpec("lora", lora_alhpa=2), "no option 'lora_alhpa'; did you mean 'lora_alpha'?"),
        (
            AdapterSpec("lora", targts=["query"]),
            "method 'lora' has no option 'targts'; did you mean 'targets'?",
        ),
        (AdapterSpec("ia3", alpha=2), "method 'ia3' has no option 'alpha'; there are: auto_mapping, "),
    ],
)
def test_unknown_names_are_named_with_the_nearest(wrong: AdapterSpec, message: str) -> None:
    for check in (lambda: check_spec(wrong), lambda: AdaptedModel.of(bert()).attach(wrong)):
        with pytest.raises(SpecError) as caught:
            check()
        assert message in str(caught.value)


@pytest.mark.parametrize(
    "method",
    ["adaption_prompt", "cartridge", "cpt", "multitask_prompt_tuning", "poly", "xlora", "shadow"],
)
def test_what_needs_the_forward_of_peft_is_refused(method: str) -> None:
    assert method not in method_names()
    with pytest.raises(UnsupportedError, match=f"method '{method}' needs PEFT's own forward"):
        check_spec(AdapterSpec(method))


def test_what_an_old_peft_cannot_save_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(PEFT_TYPE_TO_CONFIG_MAPPING, "PFEIFFER", raising=False)
    assert "pfeiffer" not in method_names()
    with pytest.raises(UnsupportedError, match=r"method 'pfeiffer' needs PEFT 0\.21 or newer, this is "):
        check_spec(AdapterSpec("pfeiffer"))


def test_a_prompt_configuration_of_peft_is_taken() -> None:
    attached = AdaptedModel.of(bert()).attach(PromptTuningConfig(num_virtual_tokens=2))
    assert {name: tuple(t.shape) for name, t in attached.tensors().items()} == {"prompt_embeddings": (2, 16)}


@pytest.mark.parametrize(
    ("option", "value", "effect"),
    [
        ("bias", "all", "trains the base's own biases"),
        ("modules_to_save", ["classifier"], "the head is stored with every version anyway"),
        ("init_lora_weights", "pissa", "rewrites the base"),
        ("init_lora_weights", "olora", "rewrites the base"),
        ("layer_replication", [[0, 2], [0, 2]], "makes the base deeper"),
        ("alora_invocation_tokens", [1], "acts inside PEFT's own forward only"),
    ],
)
def test_an_option_that_reaches_beyond_the_adapter_is_refused(option: str, value: Any, effect: str) -> None:
    model = bert()
    before, looks = values(model), look(model)
    wanted = LoraConfig(target_modules=["query"], task_type="CAUSAL_LM", **{option: value})
    for refused in (AdapterSpec("lora", **{option: value}), wanted):
        with pytest.raises(UnsupportedError, match=f"option {option}=.* is not supported: it .*{effect}"):
            AdaptedModel.of(model).attach(refused)
    with pytest.raises(UnsupportedError, match=f"option {option}="):
        check_spec(AdapterSpec("lora", **{option: value}))
    assert same(values(model), before)
    assert look(model) == looks


@pytest.mark.parametrize(
    ("refused", "reason"),
    [
        (AdapterSpec("lora", r=0), "`r` should be a positive integer"),
        (AdapterSpec("adalora", total_step=0), "`total_step`"),
        (AdapterSpec("c3a", block_size=7), "block size should be a factor"),
        # Fits the first target, not the second: there is a layer in the model when it fails.
        (
            AdapterSpec(
                "fourierft", n_frequency=300, targets=["0.intermediate.dense", "1.attention.self.query"]
            ),
            "`n_frequency` should be less than or equal to",
        ),
        (LoraConfig(target_modules=["query"], lora_dropout=3.0), "dropout probability"),
    ],
)
def test_a_refusal_of_the_method_leaves_the_model_as_it_was(refused: Any, reason: str) -> None:
    model = bert()
    before, looks, start = values(model), look(model), logits(model)
    adapted = AdaptedModel.of(model)
    with pytest.raises(SpecError, match=reason):
        adapted.attach(refused)
    assert same(values(model), before)
    assert look(model) == looks
    assert torch.equal(logits(model), start)
    trained(adapted)  # and it can be used


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(target_modules=["query", "value"], r=4),
        LoraConfig(target_modules=["query"], task_type="SEQ_CLS"),
        LoraConfig(target_modules=["query"], use_dora=True),
        LoraConfig(target_modules=["query"], lora_bias=True),
        LoraConfig(target_modules=["query"], trainable_token_indices=[3, 5]),
        LoraConfig(target_modules=[], target_parameters=["query.weight", "output.dense.weight"]),
        LoraConfig(target_modules=["word_embeddings"]),
        LoraConfig(target_modules=["query"], inference_mode=True),
        IA3Config(),
    ],
    ids=["lora", "task", "dora", "bias", "tokens", "parameters", "embeddings", "inference", "ia3"],
)
def test_peft_configurations_are_taken_as_they_are(config: PeftConfig) -> None:
    model = bert()
    before, looks, told = values(model), look(model), config.to_dict()
    adapted = AdaptedModel.of(model)
    start = logits(model)
    fresh_tensors = adapted.attach(config).tensors()
    assert torch.equal(logits(model), start)
    state = trained(adapted)
    assert not same(state.adapter_tensors(), fresh_tensors)
    answered = logits(model)
    assert not torch.equal(answered, start)
    adapted.detach()
    model.classifier.load_state_dict(
        {"weight": before["classifier.weight"], "bias": before["classifier.bias"]}
    )
    assert same(values(model), before)
    assert look(model) == looks
    fresh = AdaptedModel.of(bert())
    fresh.attach_state(state)
    fresh.load_head(state)
    assert torch.equal(logits(fresh.module), answered)
    assert config.to_dict() == told


def test_transposed_layers_are_handled_without_a_word() -> None:
    for given in (
        AdapterSpec("lora"),
        LoraConfig(target_modules=["c_attn"]),
        AdapterSpec("ia3"),
        spec("vera"),
    ):
        adapted = AdaptedModel.of(gpt2())
        adapted.attach(given)
        assert adapted.attachment is not None
        assert adapted.attachment.config.fan_in_fan_out
        assert logits(adapted.module, IDS[:, :5]).shape == (3, 5, 48)
