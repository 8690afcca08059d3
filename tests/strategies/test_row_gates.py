"""Gates by themselves: what they weigh rows with, beside numpy, and what a row is to them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from transformers import BertConfig, BertModel

from contpeft.adapters.gated import Gate, GateOptions, GateRule, reading_rows, weigh
from contpeft.errors import UnsupportedError

WIDTH = 12
RULES: list[GateRule] = ["independent", "attention", "cosine"]
seeds = st.integers(0, 10_000)


def drawn(rule: GateRule, count: int, seed: int) -> list[Gate]:
    options = GateOptions(rule, hidden=8)
    generator = torch.Generator().manual_seed(seed)
    return [Gate(options, options.drawn(WIDTH, generator)) for _ in range(count)]


def rows(seed: int, count: int = 5) -> Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed + 1))


def expected(gates: list[Gate], x: Tensor) -> NDArray[np.float64]:
    """Returns the weights by the formulas, in double precision."""
    rule = gates[-1].options.rule
    keys = [gate.key.detach().double().numpy() for gate in gates]
    if rule == "independent":
        cosines = [cosine(query(gate, x), key) for gate, key in zip(gates, keys, strict=True)]
        return np.stack([np.abs(2 / (1 + np.exp(-4 * each)) - 1) for each in cosines], axis=1)
    found = query(gates[-1], x)
    if rule == "cosine":
        return np.stack([cosine(found, key) for key in keys], axis=1)
    scores = np.stack([found @ key for key in keys], axis=1) / math.sqrt(keys[0].size)
    raised = np.exp(scores - scores.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)


def query(gate: Gate, x: Tensor) -> NDArray[np.float64]:
    z = x.double().numpy()
    z = z / np.sqrt((z**2).mean(1, keepdims=True))
    if gate.options.rule == "cosine":
        return z
    first, second = (gate.named()[name].detach().double().numpy() for name in ("0", "1"))
    z = silu(z @ first.T) @ second.T
    if gate.options.rule == "independent":
        return silu(z)
    return (z - z.mean(1, keepdims=True)) / np.sqrt(z.var(1, keepdims=True) + 1e-5)


def silu(z: NDArray[np.float64]) -> NDArray[np.float64]:
    return z / (1 + np.exp(-z))


def cosine(z: NDArray[np.float64], key: NDArray[np.float64]) -> NDArray[np.float64]:
    return (z @ key) / np.linalg.norm(z, axis=1) / np.linalg.norm(key)


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=25, deadline=None)
@given(seed=seeds, count=st.integers(1, 4))
def test_weights_are_those_of_the_formulas(rule: GateRule, seed: int, count: int) -> None:
    gates, x = drawn(rule, count, seed), rows(seed)
    with torch.no_grad():
        np.testing.assert_allclose(weigh(gates, x).numpy(), expected(gates, x), atol=2e-5)


@settings(max_examples=25, deadline=None)
@given(seed=seeds, count=st.integers(1, 4))
def test_attention_sums_to_one_and_is_not_negative(seed: int, count: int) -> None:
    with torch.no_grad():
        weights = weigh(drawn("attention", count, seed), rows(seed))
    assert weights.min() >= 0
    torch.testing.assert_close(weights.sum(1), torch.ones(5), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("cosine_of", "weight"), [(0.0, 0.0), (1.0, 0.96403), (-1.0, 0.96403), (0.5, 0.76159)]
)
def test_an_independent_gate_maps_right_angles_to_nothing_and_the_same_direction_to_0_964(
    cosine_of: float, weight: float
) -> None:
    (gate,), x = drawn("independent", 1, 3), rows(3, 1)
    with torch.no_grad():
        along = torch.nn.functional.normalize(gate.query(x)[0], dim=0)
        beside = torch.randn(8, generator=torch.Generator().manual_seed(0))
        beside = torch.nn.functional.normalize(beside - (beside @ along) * along, dim=0)
        gate.key.copy_(cosine_of * along + math.sqrt(1 - cosine_of**2) * beside)
        assert weigh([gate], x).item() == pytest.approx(weight, abs=1e-5)


@settings(max_examples=20, deadline=None)
@given(seed=seeds, scale=st.floats(0.01, 100))
def test_the_length_of_what_a_row_is_does_not_count(seed: int, scale: float) -> None:
    x = rows(seed)
    for rule in RULES:
        gates = drawn(rule, 2, seed)
        with torch.no_grad():
            torch.testing.assert_close(weigh(gates, scale * x), weigh(gates, x), rtol=0, atol=1e-5)


@settings(max_examples=10, deadline=None)
@given(seed=seeds)
def test_a_further_gate_changes_no_weight_of_independent_ones_and_takes_some_of_attention(seed: int) -> None:
    x = rows(seed)
    with torch.no_grad():
        three = drawn("independent", 3, seed)
        assert torch.equal(weigh(three, x)[:, :2], weigh(three[:2], x))
        three = drawn("attention", 3, seed)
        layers = {name: value.detach() for name, value in three[1].named().items()}
        last = Gate(three[1].options, {**layers, "key": three[2].key.detach()})  # the query goes on
        assert (weigh([*three[:2], last], x)[:, :2] < weigh(three[:2], x)).all()


def bert(**options: Any) -> BertModel:
    sizes = dict(hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    return BertModel(BertConfig(vocab_size=20, **sizes, **options), add_pooling_layer=False).eval()


def test_a_row_is_the_mean_embedding_of_its_tokens_whatever_its_padding() -> None:
    model = bert()
    ids, mask = torch.tensor([[3, 4, 5, 0], [6, 7, 8, 9]]), torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    with reading_rows(model) as read, torch.no_grad():
        found = read(lambda: model(input_ids=ids, attention_mask=mask))
        alone = read(lambda: model(input_ids=ids[:1, :3]))
        table = model.get_input_embeddings().weight
    torch.testing.assert_close(found[0], table[[3, 4, 5]].mean(0))
    torch.testing.assert_close(found[1], table[[6, 7, 8, 9]].mean(0))
    torch.testing.assert_close(found[:1], alone)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_what_tells_no_row_is_refused() -> None:
    model = bert()
    with reading_rows(model) as read:
        with pytest.raises(
            UnsupportedError, match="does not tell tokens from padding, and what a gate reads"
        ):
            read(lambda: model(torch.tensor([[3, 4]]), attention_mask=torch.ones(1, 2, 2)))
        with pytest.raises(UnsupportedError, match="gates read the embeddings of tokens, and BertModel was"):
            read(lambda: model(inputs_embeds=torch.zeros(1, 2, WIDTH)))
        with pytest.raises(UnsupportedError, match="gates read whole rows, and a call with past_key_values"):
            read(lambda: model(torch.tensor([[3, 4]]), past_key_values=object()))
