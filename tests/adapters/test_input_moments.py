"""Second moments of what layers read, and gradients of weights that are frozen."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from contpeft.adapters import input_moments, weight_gradients
from contpeft.errors import SpecError, UnsupportedError

QUERY, KEY, VALUE = (f"encoder.layer.0.attention.self.{name}" for name in ("query", "key", "value"))
OUT, DOWN = "encoder.layer.0.attention.output.dense", "encoder.layer.0.output.dense"


@pytest.fixture
def model() -> BertModel:
    torch.manual_seed(0)
    sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24)
    return BertModel(BertConfig(vocab_size=32, **sizes), add_pooling_layer=False).eval()


def batches() -> Iterator[dict[str, Tensor]]:
    words = torch.Generator().manual_seed(1)
    for length in (5, 7):
        ids = torch.randint(32, (3, length), generator=words)
        mask = torch.ones_like(ids)
        mask[1, 3:] = 0
        yield {"input_ids": ids, "attention_mask": mask}


def reads(model: BertModel, modules: list[str]) -> dict[str, np.ndarray]:
    """The oracle: all rows that each module reads, padding left out."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in modules}
    for batch in batches():
        seen = batch["attention_mask"].bool()
        hooks = [
            model.get_submodule(name).register_forward_pre_hook(
                lambda _, args, name=name, seen=seen: found[name].append(args[0][seen].double().numpy())
            )
            for name in modules
        ]
        with torch.no_grad():
            model(**batch)
        for hook in hooks:
            hook.remove()
    return {name: np.concatenate(rows) for name, rows in found.items()}


def run(model: BertModel) -> None:
    with torch.no_grad():
        for batch in batches():
            model(**batch)


def test_moments_are_means_over_the_tokens_that_count(model: BertModel) -> None:
    modules = [QUERY, KEY, VALUE, OUT, DOWN]
    found = input_moments(model, modules, lambda: run(model))
    for name, rows in reads(model, modules).items():
        np.testing.assert_allclose(found.of(name).numpy(), rows.T @ rows / len(rows), rtol=0, atol=1e-12)
    assert found.of(QUERY).dtype == torch.float64
    assert set(found.tokens.values()) == {3 * 5 - 2 + 3 * 7 - 4}


def test_layers_that_read_the_same_share_one_moment(model: BertModel) -> None:
    found = input_moments(model, [VALUE, QUERY, KEY, OUT], lambda: run(model))
    assert found.readers == {QUERY: QUERY, KEY: QUERY, VALUE: QUERY, OUT: OUT}
    assert set(found.moments) == {QUERY, OUT}
    assert found.of(VALUE) is found.of(QUERY)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_layer_that_reads_nothing_is_named(model: BertModel) -> None:
    with pytest.raises(SpecError, match=rf"^'{QUERY}' read nothing; give some of the task's data"):
        input_moments(model, [QUERY], lambda: None)


def test_what_reads_no_vectors_is_named(model: BertModel) -> None:
    with pytest.raises(UnsupportedError, match=r"^'embeddings.word_embeddings' reads no vectors"):
        input_moments(model, ["embeddings.word_embeddings"], lambda: run(model))
    assert not any(module._forward_pre_hooks for module in model.modules())


class Sometimes(nn.Module):
    """Two layers that read the same at every other call."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.calls = nn.Linear(4, 4), nn.Linear(4, 4), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.first(x) + self.second(x if self.calls % 2 else x.clone())


def test_inputs_shared_at_some_calls_only_are_refused() -> None:
    model = Sometimes()
    with pytest.raises(UnsupportedError, match=r"^'second' reads what 'first' reads in some passes only"):
        input_moments(model, ["first", "second"], lambda: (model(torch.ones(2, 4)), model(torch.ones(2, 4))))


def loss_of(model: BertModel, batch: dict[str, Tensor]) -> Tensor:
    # Any loss but the distance to a constant vector, which a normalised output cannot change.
    return (model(**batch).last_hidden_state[:, 0] * torch.arange(16.0)).tanh().sum()


@pytest.mark.parametrize("frozen", [True, False])
def test_weight_gradients_are_those_of_autograd(model: BertModel, frozen: bool) -> None:
    modules = [QUERY, VALUE, OUT, DOWN]
    for batch in batches():
        loss_of(model, batch).backward()
    expected = {name: model.get_submodule(name).weight.grad.clone() for name in modules}
    model.zero_grad(set_to_none=True)
    model.requires_grad_(not frozen)
    with torch.no_grad():
        found = weight_gradients(model, modules, [lambda b=b: loss_of(model, b) for b in batches()])
    for name, gradient in expected.items():
        assert gradient.abs().max() > 1e-3
        torch.testing.assert_close(found[name].float(), gradient, rtol=1e-4, atol=1e-7)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_layer_beside_the_loss_is_named(model: BertModel) -> None:
    with pytest.raises(SpecError, match=rf"^'{OUT}' takes no part in the loss"):
        weight_gradients(model, [OUT], [])
