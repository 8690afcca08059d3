"""Prompts: the numbers are PEFT's, and who calls the model sees nothing of the virtual tokens."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from adapters_prompts import (
    CAUSAL,
    MASK,
    SPECS,
    TEXT,
    TOKENS,
    attached,
    by_peft,
    gpt2_classifier,
    llama_lm,
    prompt,
    scores,
)
from adapters_tiny import IDS, Module, bert, encoder, gpt2, logits, look, same, trained, values
from transformers import DynamicCache

from contpeft.adapters import AdaptedModel
from contpeft.errors import SpecError
from contpeft.spec import AdapterSpec

each_spec = pytest.mark.parametrize("name", SPECS)


@each_spec
@pytest.mark.parametrize("task", ["FEATURE_EXTRACTION", "SEQ_CLS"])
def test_a_classifier_answers_as_in_peft(name: str, task: str) -> None:
    model = bert()
    theirs = by_peft(bert(), SPECS[name], attached(model, SPECS[name]), task_type=task)
    for mask in (MASK, torch.ones_like(IDS)):
        ours = scores(model, IDS, attention_mask=mask)
        expected = scores(theirs, input_ids=IDS, attention_mask=mask)
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)
        assert (ours - scores(bert(), IDS, attention_mask=mask)).abs().max() > 1e-3


@each_spec
@pytest.mark.parametrize("make", [llama_lm, gpt2])
def test_a_causal_lm_answers_as_in_peft(name: str, make: Any) -> None:
    model = make()
    theirs = by_peft(make(), SPECS[name], attached(model, SPECS[name]))
    hidden = 0 if name.startswith("prefix") else TOKENS  # PEFT shows the scores of virtual tokens too
    for options in ({}, {"attention_mask": MASK}):
        ours = scores(model, IDS, **options)
        expected = scores(theirs, input_ids=IDS, **options)[:, hidden:]
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)
        assert (ours - scores(make(), IDS, **options)).abs().max() > 1e-3


@each_spec
def test_gradients_are_those_of_peft(name: str) -> None:
    model = bert()
    put = attached(model, SPECS[name])
    theirs = by_peft(bert(), SPECS[name], put)
    for each in (model, theirs):
        each(input_ids=IDS, attention_mask=MASK).logits.square().sum().backward()
    own = dict(put.encoder.named_parameters())
    for parameter, other in theirs.prompt_encoder["default"].named_parameters():
        torch.testing.assert_close(own[parameter].grad, other.grad, rtol=1e-5, atol=1e-7)
        assert other.grad.abs().max() > 0


def test_a_prompt_is_vectors_before_those_of_the_tokens() -> None:
    model, plain = encoder(), encoder()
    put = attached(model, prompt())
    vectors = put.tensors()["prompt_embeddings"]
    embeds = plain.embeddings.word_embeddings(IDS)
    before = torch.cat([vectors.expand(3, -1, -1), embeds], 1)
    expected = plain(inputs_embeds=before).last_hidden_state[:, TOKENS:]
    assert torch.equal(model(input_ids=IDS).last_hidden_state, expected)


@pytest.mark.parametrize("family", TEXT)
@pytest.mark.parametrize("method", ["prompt_tuning", "prefix_tuning"])
def test_padding_changes_nothing(family: str, method: str) -> None:
    if (family, method) == ("distilbert", "prefix_tuning"):
        pytest.skip("takes no prefix")
    model = TEXT[family]()
    start = scores(model, IDS + 2, attention_mask=MASK)
    attached(model, prompt(method))
    whole = scores(model, IDS + 2, attention_mask=MASK)
    alone = scores(model, IDS[1:2, :5] + 2)
    seen = whole[1:2, :5] if family in CAUSAL else whole[1:2]
    torch.testing.assert_close(seen, alone, rtol=0, atol=1e-5)
    assert whole.shape == start.shape
    assert (seen - start[1:2, : seen.shape[1]]).abs().max() > 1e-4


@each_spec
def test_a_call_may_be_put_in_other_words(name: str) -> None:
    model = encoder()
    attached(model, SPECS[name])
    one = torch.ones_like(IDS)
    embeds = model.embeddings.word_embeddings(IDS)
    with torch.no_grad():
        expected = model(input_ids=IDS, attention_mask=one).last_hidden_state
        assert torch.equal(model(IDS, one).last_hidden_state, expected)
        same_values = [
            model(IDS),
            model(inputs_embeds=embeds, attention_mask=one),
            model(IDS, token_type_ids=torch.zeros_like(IDS)),
            model(IDS, position_ids=torch.arange(8)[None]),
        ]
        told = model(IDS, return_dict=False)
        kinds = model(IDS, token_type_ids=torch.ones_like(IDS)).last_hidden_state
    assert type(told) is tuple
    for each in (*(other.last_hidden_state for other in same_values), told[0]):
        torch.testing.assert_close(each, expected, rtol=0, atol=1e-6)
    assert (kinds - expected).abs().max() > 1e-3


@each_spec
def test_every_output_has_the_length_of_the_inputs(name: str) -> None:
    model = bert(attn_implementation="eager")
    attached(model, SPECS[name])
    found = model(IDS, output_hidden_states=True, output_attentions=True)
    assert [tuple(each.shape) for each in found.hidden_states] == [(3, 8, 16)] * 3
    # What tokens look at includes the virtual ones.
    assert [tuple(each.shape) for each in found.attentions] == [(3, 2, 8, 8 + TOKENS)] * 2
    assert getattr(found, "past_key_values", None) is None


def test_labels_of_tokens_need_no_change() -> None:
    model = llama_lm()
    attached(model, prompt())
    output = model(IDS, labels=IDS)
    expected = torch.nn.functional.cross_entropy(output.logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())
    torch.testing.assert_close(output.loss, expected)


@pytest.mark.parametrize("method", ["prompt_tuning", "prefix_tuning"])
def test_a_classifier_of_the_last_token_finds_it(method: str) -> None:
    model = gpt2_classifier()
    attached(model, prompt(method))
    padded = torch.where(MASK.bool(), IDS + 1, 0)
    whole = scores(model, padded, attention_mask=MASK)
    torch.testing.assert_close(whole[1:2], scores(model, padded[1:2, :5]), rtol=0, atol=1e-6)


@each_spec
def test_a_cache_comes_back_when_the_model_gives_one(name: str) -> None:
    model, plain = llama_lm(), bert()
    attached(model, SPECS[name])
    assert model(IDS).past_key_values.get_seq_length() == IDS.shape[1] + TOKENS
    assert model(IDS, use_cache=False).past_key_values is None
    own = DynamicCache(config=model.config)
    assert model(IDS, past_key_values=own).past_key_values is own
    attached(plain, SPECS[name])
    assert plain.bert(IDS).past_key_values is None


@each_spec
def test_taking_it_out_leaves_no_trace_also_after_an_error(name: str) -> None:
    model = bert()
    before, looks, start = values(model), look(model), logits(model)
    adapted = AdaptedModel.of(model)
    state = trained(adapted, SPECS[name])
    with pytest.raises(SpecError, match="one of both"):
        model()
    adapted.detach()
    adapted.reset_head()
    assert look(model)["tree"].keys() == looks["tree"].keys()
    assert {key: look(model)[key] for key in ("attributes", "hooks", "modes")} == {
        key: looks[key] for key in ("attributes", "hooks", "modes")
    }
    assert same(values(model), before)
    assert torch.equal(logits(model), start)
    adapted.verify_base()
    assert set(state.adapter_tensors()) == {"prompt_embeddings"}


@each_spec
def test_a_network_is_folded_away_and_training_goes_on(name: str) -> None:
    model = bert()
    adapted = AdaptedModel.of(model)
    state = trained(adapted, SPECS[name])
    other = AdaptedModel.of(bert())
    other.attach_state(state)
    (vectors,) = other.attachment.trainable()
    assert torch.equal(vectors.detach(), state.tensors["prompt_embeddings"])
    assert other.attachment.named_parameters() == {"prompt_embeddings": vectors}
    again = trained(other)
    assert not torch.equal(again.tensors["prompt_embeddings"], state.tensors["prompt_embeddings"])
    adapted.attachment.load(again.adapter_tensors())  # into the network's place
    assert torch.equal(adapted.attachment.tensors()["prompt_embeddings"], again.tensors["prompt_embeddings"])
    other.load_head(adapted.state())
    assert torch.equal(logits(model), logits(other.module))


def test_a_copy_of_the_module_is_its_own() -> None:
    for spec in (*SPECS.values(), AdapterSpec("unipelt", num_virtual_tokens=TOKENS, reduction_factor=4)):
        model = bert()
        put = attached(model, spec)
        model(IDS).logits.sum().backward()
        other = copy.deepcopy(model)
        answered = logits(model)
        assert torch.equal(logits(other), answered)
        with torch.no_grad():
            for parameter in put.parameters():
                parameter.zero_()
        assert torch.equal(logits(other), answered)
        assert not torch.equal(logits(model), answered)


@pytest.mark.parametrize("name", ["prompt", "prefix"])
def test_a_compiled_model_computes_the_same(name: str) -> None:
    torch._dynamo.reset()
    module, plain = Module(), Module()
    module.model = torch.compile(module.model, backend="eager")
    start = logits(module)
    attached(module, SPECS[name])
    attached(plain, SPECS[name])
    torch.testing.assert_close(logits(module), logits(plain))
    AdaptedModel.of(module).detach()
    assert torch.equal(logits(module), start)
    torch._dynamo.reset()


def test_words_of_the_model_are_where_a_prompt_may_start() -> None:
    model = bert()
    put = AdaptedModel.of(model).attach(prompt(prompt_tuning_init="SAMPLE_VOCAB"))
    words = model.bert.embeddings.word_embeddings.weight
    for vector in put.tensors()["prompt_embeddings"]:
        assert (vector == words).all(1).any()


def test_a_vector_of_another_shape_is_not_loaded() -> None:
    put = attached(bert(), prompt())
    before = put.tensors()
    for wrong, message in (
        ({"prompt_embeddings": torch.zeros(3, 16)}, r"shape \(3, 16\), the model's place for it \(4, 16\)"),
        ({}, "a prompt is one tensor, prompt_embeddings; there are: none"),
        ({**before, "more": torch.zeros(1)}, "there are: more, prompt_embeddings"),
    ):
        with pytest.raises(SpecError, match=message):
            put.load(wrong)
    assert same(put.tensors(), before)


def test_dropout_is_that_of_the_mode() -> None:
    model = bert()
    put = attached(model, prompt("p_tuning", encoder_reparameterization_type="LSTM", encoder_dropout=0.9))
    put.train()
    assert put.encoder.training
    assert same(put.tensors(), put.tensors())  # what is stored has none
    assert put.encoder.training
