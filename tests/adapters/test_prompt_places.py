"""Which models take a prompt or a prefix, and what is refused by name."""

from __future__ import annotations

from inspect import signature
from typing import Any

import pytest
import torch
from adapters_prompts import PIXELS, TOKENS, attached, deit, dinov2, prompt, t5_whole
from adapters_tiny import IDS, bert, distilbert, encoder, gpt2, llama, look, t5, vit
from torch import nn
from transformers import BertModel

from contpeft.adapters import AdaptedModel, measure_moments
from contpeft.errors import SpecError, UnsupportedError
from contpeft.spec import AdapterSpec


@pytest.mark.parametrize("make", [vit, deit, dinov2])
def test_pictures_get_virtual_patches(make: Any) -> None:
    model, plain = make(), make()
    put = attached(model, prompt())
    vectors = put.tensors()["prompt_embeddings"]
    backbone = plain.base_model
    patches = backbone.embeddings(PIXELS)
    hidden = torch.cat([patches[:, :1], vectors.expand(2, -1, -1), patches[:, 1:]], 1)  # as in the paper
    hidden = backbone.layernorm(_through(backbone, hidden))
    kept = torch.cat([hidden[:, :1], hidden[:, 1 + TOKENS :]], 1)
    found = model.base_model(PIXELS).last_hidden_state
    torch.testing.assert_close(found, kept, rtol=0, atol=1e-6)
    assert (found - plain.base_model(PIXELS).last_hidden_state).abs().max() > 1e-3
    assert model(PIXELS).logits.shape == (2, 3)
    AdaptedModel.of(model).detach()
    assert torch.equal(model(PIXELS).logits, plain(PIXELS).logits)


def _through(backbone: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    layers = next(m for m in backbone.modules() if isinstance(m, nn.ModuleList) and len(m) == 2)
    for layer in layers:
        hidden = layer(hidden)
    return hidden


@pytest.mark.parametrize(
    ("make", "method", "reason"),
    [
        (distilbert, "prefix_tuning", "a distilbert model takes no keys and values of earlier tokens"),
        (t5, "p_tuning_v2", "a t5 model takes no keys and values"),
        (vit, "prefix_tuning", "a vit model takes no keys and values"),
        (t5_whole, "prompt_tuning", r"not put into encoder-decoder models \(t5\); use a method"),
    ],
)
def test_a_model_without_a_place_is_refused(make: Any, method: str, reason: str) -> None:
    model = make()
    looks = look(model)
    with pytest.raises(UnsupportedError, match=reason):
        AdaptedModel.of(model).attach(prompt(method))
    assert look(model) == looks


def test_an_encoder_of_t5_takes_a_prompt() -> None:
    model = t5()
    start = model(IDS).last_hidden_state
    attached(model, prompt())
    assert model(IDS).last_hidden_state.shape == start.shape
    assert not torch.allclose(model(IDS).last_hidden_state, start, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_virtual_tokens": 0}, "num_virtual_tokens is 0; give a whole number, 1 or more"),
        ({"token_dim": 8}, "token_dim is 8, BertForSequenceClassification has 16; leave it out"),
        ({"num_layers": 3}, "num_layers is 3, .* has 2"),
        ({"num_virtual_token": 3}, "no option 'num_virtual_token'; did you mean 'num_virtual_tokens'"),
        ({"prompt_tuning_init": "TEXT"}, "tokenizer_name_or_path can't be None"),
    ],
)
def test_options_that_do_not_fit_are_named(options: dict[str, Any], message: str) -> None:
    model = bert()
    looks = look(model)
    with pytest.raises(SpecError, match=message):
        AdaptedModel.of(model).attach(AdapterSpec("prompt_tuning", **options))
    assert look(model) == looks


@pytest.mark.parametrize("method", ["prompt_tuning", "prefix_tuning"])
@pytest.mark.parametrize("make", [encoder, gpt2])
def test_inputs_that_leave_no_positions_are_refused(make: Any, method: str) -> None:
    model = make()
    attached(model, prompt(method))
    ids = torch.ones(1, 12, dtype=torch.long)
    assert model(ids) is not None
    with pytest.raises(SpecError, match="13 tokens and 4 virtual ones are more than the 16 positions"):
        model(torch.ones(1, 13, dtype=torch.long))


@pytest.mark.parametrize("method", ["prompt_tuning", "prefix_tuning"])
def test_a_mask_of_pairs_is_refused(method: str) -> None:
    model = encoder()
    attached(model, prompt(method))
    with pytest.raises(
        UnsupportedError, match=r"mask of shape \(3, 1, 8, 8\) has no place for virtual tokens"
    ):
        model(IDS, attention_mask=torch.ones(3, 1, 8, 8))


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_:FutureWarning")
def test_a_prefix_refuses_gradient_checkpointing() -> None:
    model = llama().train()
    model.gradient_checkpointing_enable()
    attached(model, prompt("prefix_tuning"))
    with pytest.raises(UnsupportedError, match="switch it off"):
        model(IDS)
    model.gradient_checkpointing_disable()
    assert model(IDS).last_hidden_state.shape == (3, 8, 16)


def test_a_model_that_leaves_its_cache_alone_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = encoder()
    attached(model, prompt("prefix_tuning"))
    real = BertModel.forward

    def deaf(self: BertModel, **options: Any) -> Any:
        options.pop("past_key_values")
        return real(self, **options | {"attention_mask": None})

    deaf.__signature__ = signature(real)  # type: ignore[attr-defined]
    monkeypatch.setattr(BertModel, "forward", deaf)
    with pytest.raises(UnsupportedError, match="takes a cache and does not compute with it"):
        model(IDS)


def test_a_prompt_has_no_moments() -> None:
    model = bert()
    attached(model, prompt())
    with pytest.raises(UnsupportedError, match="the adapter changes no module"):
        measure_moments(AdaptedModel.of(model), [IDS], lambda ids: model(ids).logits.sum())
