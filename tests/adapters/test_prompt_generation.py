"""Generating with a prompt: the cache holds the virtual tokens once, whatever the search."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from adapters_prompts import SPECS, TOKENS, attached, by_peft, gpt2_lm, llama_lm, mistral_lm, prompt, qwen_lm
from adapters_tiny import IDS
from torch import Tensor, nn
from transformers import DynamicCache

from contpeft.adapters import AdaptedModel
from contpeft.errors import SpecError, UnsupportedError
from contpeft.spec import AdapterSpec

STARTS = IDS[:, :5] + 1
LEFT = torch.ones_like(STARTS)
LEFT[1, :2] = 0

each_method = pytest.mark.parametrize("method", ["prompt_tuning", "prefix_tuning"])
each_lm = pytest.mark.parametrize("make", [llama_lm, gpt2_lm, mistral_lm, qwen_lm])


def generated(model: nn.Module, ids: Tensor = STARTS, mask: Tensor | None = None, **options: Any) -> Tensor:
    mask = torch.ones_like(ids) if mask is None else mask
    options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0} | options
    return model.generate(ids, attention_mask=mask, **options)  # type: ignore[operator]


def greedy(model: nn.Module, ids: Tensor) -> Tensor:
    """Returns the best next tokens, one whole call for each."""
    with torch.no_grad():
        for _ in range(5):
            ids = torch.cat([ids, model(ids, use_cache=False).logits[:, -1:].argmax(-1)], 1)
    return ids


@each_lm
@each_method
def test_steps_with_a_cache_are_whole_calls(make: Any, method: str) -> None:
    model = make()
    without = generated(model)
    attached(model, prompt(method))
    expected = greedy(model, STARTS)
    assert torch.equal(generated(model), expected)
    assert torch.equal(generated(model, use_cache=False), expected)
    assert not torch.equal(expected, without)
    beams = generated(model, num_beams=3)
    assert torch.equal(beams, generated(model, num_beams=3, use_cache=False))


# Not with a window: padding takes its places, so that virtual tokens fall out of it sooner.
@pytest.mark.parametrize("make", [llama_lm, gpt2_lm, qwen_lm])
@each_method
def test_padding_on_the_left_changes_nothing(make: Any, method: str) -> None:
    model = make()
    attached(model, prompt(method))
    alone = generated(model, STARTS[1:2, 2:])
    assert torch.equal(generated(model, mask=LEFT)[1:2, 5:], alone[:, 3:])


@pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning")
@pytest.mark.parametrize("name", SPECS)
def test_the_tokens_are_those_of_peft(name: str) -> None:
    model = llama_lm()
    theirs = by_peft(llama_lm(), SPECS[name], attached(model, SPECS[name]))
    expected = theirs.generate(
        input_ids=STARTS, attention_mask=torch.ones_like(STARTS), max_new_tokens=5, do_sample=False
    )
    assert torch.equal(generated(model), expected)


@each_method
def test_a_helper_may_guess_ahead(method: str) -> None:
    model, ids = llama_lm(), STARTS[:1]
    attached(model, prompt(method))
    assert torch.equal(generated(model, ids, prompt_lookup_num_tokens=2), generated(model, ids))


@each_method
def test_lora_and_a_prompt_generate_together(method: str) -> None:
    model = llama_lm()
    union = AdapterSpec.union(AdapterSpec("lora", r=2), prompt(method))
    attached(model, union)
    expected = greedy(model, STARTS)
    assert torch.equal(generated(model), expected)
    AdaptedModel.of(model).detach()
    attached(model, prompt(method))
    assert not torch.equal(generated(model), expected)


@each_method
def test_a_cache_of_fixed_size_is_refused(method: str) -> None:
    model = llama_lm()
    attached(model, prompt(method))
    with pytest.raises(UnsupportedError, match="a cache of kind StaticCache has no room for virtual tokens"):
        generated(model, cache_implementation="static")


@each_method
def test_a_cache_that_began_without_the_prompt_is_refused(method: str) -> None:
    model = llama_lm()
    cache = model(IDS).past_key_values
    attached(model, prompt(method))
    with pytest.raises(
        SpecError, match="not begun with the prompt that is attached now; begin with an empty"
    ):
        model(IDS[:, :1], past_key_values=cache)


@each_method
def test_a_mask_that_does_not_fit_the_cache_is_refused(method: str) -> None:
    model = llama_lm()
    attached(model, prompt(method))
    cache = model(IDS, past_key_values=DynamicCache(config=model.config)).past_key_values
    with pytest.raises(SpecError, match=f"mask is for {TOKENS + 1} positions .* have {TOKENS + 9};"):
        model(IDS[:, :1], attention_mask=torch.ones(3, 1), past_key_values=cache)
    whole = model(torch.cat([IDS, IDS[:, :1]], 1)).logits[:, -1:]
    last = model(IDS[:, :1], attention_mask=torch.ones(3, 9), past_key_values=cache).logits
    torch.testing.assert_close(last, whole, rtol=0, atol=1e-5)
