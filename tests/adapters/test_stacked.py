"""Stacked adapters against each one attached alone, row by row, and against exact sums."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from adapters_tiny import IDS, bert, gpt2, logits, look
from torch import nn

from contpeft.adapters import AdaptedModel
from contpeft.adapters.stacked import StackedLora
from contpeft.errors import SpecError, UnsupportedError
from contpeft.merging import Fusion, Source, fuse, make_rule
from contpeft.spec import AdapterSpec, AdapterState

FORMS: dict[Any, list[dict[str, Any]]] = {
    bert: [
        {"r": 4},
        {"r": 2, "use_rslora": True, "targets": ["value", "output.dense"]},
        {"r": 3, "alpha_pattern": {"query": 1.5}, "targets": ["query", "word_embeddings"]},
    ],
    gpt2: [{"r": 4}, {"r": 2, "targets": ["c_attn", "c_fc"]}, {"r": 3, "targets": ["mlp.c_proj"]}],
}


def state(make: Any, seed: int, **options: Any) -> AdapterState:
    adapted = AdaptedModel.of(make())
    parameters = adapted.attach(AdapterSpec("lora", **options)).parameters()
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        with torch.no_grad():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
    return adapted.state()


def alone(make: Any, held: AdapterState) -> torch.Tensor:
    adapted = AdaptedModel.of(make())
    adapted.attach_state(held)
    return logits(adapted.module)


@pytest.mark.parametrize("make", FORMS)
def test_each_row_is_answered_by_its_own_adapter(make: Any) -> None:
    states = [state(make, seed, **options) for seed, options in enumerate(FORMS[make])]
    stack, model = StackedLora(states), make()
    before = look(model)
    expected = [alone(make, held) for held in states] + [logits(model)]
    for rows in ([0, 1, 2], [2, -1, 2], [1, 1, 1]):
        with stack.by_row(model, torch.tensor(rows)):
            answered = logits(model)
        for row, own in enumerate(rows):
            torch.testing.assert_close(answered[row], expected[own][row], rtol=1e-4, atol=1e-5)
    assert look(model) == before
    assert torch.equal(logits(model), expected[-1])


@pytest.mark.parametrize("make", FORMS)
def test_the_sum_is_that_of_the_exact_merge(make: Any) -> None:
    states = [state(make, seed, **options) for seed, options in enumerate(FORMS[make])]
    weights = [1.0, -0.5, 0.25]
    sources = [
        Source(f"a{i}", f"{i}", "lora", s.config, s.adapter_tensors(), w)
        for i, (s, w) in enumerate(zip(states, weights, strict=True))
    ]
    merged = fuse(sources, Fusion(make_rule("sum")))
    model = make()
    with StackedLora(states).summed(model, weights):
        answered = logits(model)
    expected = alone(make, AdapterState("lora", merged.config, merged.tensors))
    torch.testing.assert_close(answered, expected, rtol=1e-4, atol=1e-5)
    with StackedLora(states).summed(model, [0.0, 0.0, 1.0]):
        torch.testing.assert_close(logits(model), alone(make, states[2]), rtol=1e-4, atol=1e-5)


def test_a_model_is_as_it_was_after_an_error_inside() -> None:
    model = bert()
    before, said = look(model), logits(model)
    stack = StackedLora([state(bert, 0)])
    with pytest.raises(KeyboardInterrupt), stack.summed(model, [1.0]):
        raise KeyboardInterrupt
    with (
        pytest.raises(SpecError, match="a batch of 3 rows meets adapters for 2"),
        stack.by_row(model, torch.tensor([0, 0])),
    ):
        logits(model)
    assert look(model) == before
    assert torch.equal(logits(model), said)


def test_gradients_reach_the_factors_of_what_lies_below() -> None:
    model = bert()
    adapted = AdaptedModel.of(model)
    own = adapted.attach(AdapterSpec("lora", r=2)).parameters()
    with StackedLora([state(bert, 0)]).summed(model, [1.0]):
        model(IDS).logits.sum().backward()
    assert any(parameter.grad is not None and bool(parameter.grad.any()) for parameter in own)


def test_what_cannot_be_stacked_is_refused_by_name() -> None:
    with pytest.raises(SpecError, match="there is no adapter to stack"):
        StackedLora([])
    with pytest.raises(UnsupportedError, match="'ia3' is no sum of low-rank updates"):
        StackedLora([AdapterState("ia3", {}, {"x": torch.zeros(1)})])
    stack = StackedLora([state(bert, 0)])
    with pytest.raises(SpecError, match="there are 2 weights for 1 adapters"), stack.summed(bert(), [1, 1]):
        pass
    with (
        pytest.raises(SpecError, match="rows name adapters 0 to 1 of 1"),
        stack.by_row(bert(), torch.tensor([0, 1])),
    ):
        pass
    with pytest.raises(SpecError, match="which Linear does not have"), stack.summed(nn.Linear(2, 2), [1]):
        pass
