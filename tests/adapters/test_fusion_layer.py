"""The fusion layer against its maths in numpy, plain and folded, in float64."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from contpeft.adapters.fusion import Bottlenecks, FusionLayer, FusionOptions
from contpeft.errors import SpecError

B, T, N, H, R = 2, 3, 4, 8, 2
Array = NDArray[np.float64]


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def layer(options: FusionOptions, seed: int = 0) -> FusionLayer:
    torch.manual_seed(seed)
    made = FusionLayer(H, options).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return made


def inputs(seed: int = 1) -> tuple[Tensor, Bottlenecks, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return normal(B, T, H), Bottlenecks(normal(B, T, N, R), normal(N, H, R), normal(N, H)), normal(B, T, H)


def by_hand(made: FusionLayer, source: Array, outputs: Array, residual: Array, heat: float = 1.0) -> Array:
    """Returns the site's output, token by token."""
    o = made.options
    held = {name: np.asarray(p.detach()) for name, p in made.named_parameters()}
    if made.value is not None:
        held["value.weight"] = np.eye(H) + held["value.offset"]
    result = np.zeros((B, T, H))
    for b in range(B):
        for t in range(T):
            q = held["query.weight"] @ source[b, t] + held["query.bias"] if o.query else source[b, t]
            said = [outputs[b, t, n] + (residual[b, t] if o.residual_before else 0) for n in range(N)]
            keys = [held["key.weight"] @ u + held["key.bias"] if o.key else u for u in said]
            scores = np.array([q @ k for k in keys]) / heat
            weights = np.exp(scores - scores.max())
            weights /= weights.sum()
            values = [held["value.weight"] @ u if o.value else u for u in said]
            mixed = sum(weight * value for weight, value in zip(weights, values, strict=True))
            result[b, t] = mixed + (0 if o.residual_before else residual[b, t])
    return result


every_option = given(
    key=st.booleans(),
    query=st.booleans(),
    value=st.booleans(),
    value_before_softmax=st.booleans(),
    residual_before=st.booleans(),
    value_initialized=st.booleans(),
)


@settings(max_examples=40, deadline=None)
@every_option
def test_plain_and_folded_are_the_maths(**told: bool) -> None:
    made = layer(FusionOptions(**told))
    source, adapters, residual = inputs()
    expected = by_hand(made, np.asarray(source), np.asarray(adapters.outputs()), np.asarray(residual))
    with torch.no_grad():
        np.testing.assert_allclose(made(source, adapters.outputs(), residual), expected, atol=1e-12)
        if not told["residual_before"]:
            np.testing.assert_allclose(made.folded(source, adapters, residual), expected, atol=1e-12)


def test_folded_gradients_are_the_plain_ones() -> None:
    made = layer(FusionOptions())
    source, adapters, residual = inputs()
    gradients = []
    for output in (made(source, adapters.outputs(), residual), made.folded(source, adapters, residual)):
        made.zero_grad()
        output.square().sum().backward()
        gradients.append({name: p.grad.clone() for name, p in made.named_parameters() if p.grad is not None})
    for name, gradient in gradients[0].items():
        np.testing.assert_allclose(gradients[1][name], gradient, atol=1e-9, err_msg=name)


def test_dropped_scores_are_the_same_folded_or_not() -> None:
    made = layer(FusionOptions(dropout_prob=0.5)).train()
    source, adapters, residual = inputs()
    torch.manual_seed(3)
    plain = made(source, adapters.outputs(), residual)
    torch.manual_seed(3)
    np.testing.assert_allclose(made.folded(source, adapters, residual).detach(), plain.detach(), atol=1e-12)


def test_no_dropout_means_none() -> None:
    made = layer(FusionOptions(dropout_prob=0.0))
    source, adapters, residual = inputs()
    still = made(source, adapters.outputs(), residual)
    assert torch.equal(made.train()(source, adapters.outputs(), residual), still)


def test_it_begins_near_the_mean_of_what_adapters_say() -> None:
    torch.manual_seed(0)
    made = FusionLayer(H).eval()
    source, adapters, residual = inputs()
    mean = adapters.outputs().mean(2) + residual
    with torch.no_grad():
        assert float((made(source, adapters.outputs(), residual) - mean).abs().max()) < 0.1


def test_equal_adapters_are_one_whatever_the_order() -> None:
    made = layer(FusionOptions())
    source, adapters, residual = inputs()
    outputs = adapters.outputs()
    with torch.no_grad():
        shuffled = made(source, outputs[:, :, [2, 0, 3, 1]], residual)
        np.testing.assert_allclose(shuffled, made(source, outputs, residual), atol=1e-12)
        same = outputs[:, :, :1].expand(-1, -1, N, -1)
        one = made(source, outputs[:, :, :1], residual)
        np.testing.assert_allclose(made(source, same, residual), one, atol=1e-12)


def test_the_penalty_is_how_far_the_value_matrix_is_from_the_identity() -> None:
    torch.manual_seed(0)
    fresh = FusionLayer(32)
    assert fresh.penalty().item() == pytest.approx(1e-14 * 32 * 31, rel=1e-12)
    made = layer(FusionOptions())
    assert made.value is not None
    weight = np.asarray(made.value.weight.detach())
    assert made.penalty().item() == pytest.approx(0.01 * np.sum((np.eye(H) - weight) ** 2), rel=1e-12)
    assert float(layer(FusionOptions(regularization=False)).penalty()) == 0.0
    assert float(layer(FusionOptions(value=False)).penalty()) == 0.0


def test_the_softmax_cools_while_training_and_goes_on_from_there() -> None:
    made = layer(FusionOptions(temperature=True))
    source, adapters, residual = inputs()
    told = np.asarray(source), np.asarray(adapters.outputs()), np.asarray(residual)
    with torch.no_grad():
        np.testing.assert_allclose(
            made(source, adapters.outputs(), residual), by_hand(made, *told, heat=50.0), atol=1e-12
        )
        made(source, adapters.outputs(), residual)
        assert int(made.steps) == 0  # nothing cools while it is only asked
        made.train()
        for _ in range(4):
            made(source, adapters.outputs(), residual)
        other = layer(FusionOptions(temperature=True))
        other.load_state_dict(made.state_dict())
        np.testing.assert_allclose(
            other(source, adapters.outputs(), residual), by_hand(made, *told, heat=49.8), atol=1e-12
        )
        made.steps.fill_(10_000)
        np.testing.assert_allclose(
            made.eval()(source, adapters.outputs(), residual), by_hand(made, *told), atol=1e-12
        )


def test_a_fusion_without_temperature_keeps_no_count() -> None:
    assert set(FusionLayer(H).state_dict()) == {
        "query.weight",
        "query.bias",
        "key.weight",
        "key.bias",
        "value.offset",
    }


def test_attention_is_kept_when_it_is_watched() -> None:
    made = layer(FusionOptions())
    source, adapters, residual = inputs()
    made(source, adapters.outputs(), residual)
    assert made.attention is None
    made.watch = True
    made.folded(source, adapters, residual)
    assert made.attention is not None
    assert made.attention.shape == (B, T, N)
    np.testing.assert_allclose(made.attention.sum(-1), 1.0)


def test_what_cannot_be_folded_and_what_is_no_share_is_said() -> None:
    source, adapters, residual = inputs()
    with pytest.raises(SpecError, match="residual_before cannot be folded"):
        layer(FusionOptions(residual_before=True)).folded(source, adapters, residual)
    with pytest.raises(SpecError, match="dropout_prob 1 is no share"):
        FusionOptions(dropout_prob=1.0)


def test_decay_draws_the_value_matrix_to_the_identity() -> None:
    made = layer(FusionOptions())
    assert made.value is not None
    optimizer = torch.optim.AdamW(made.value.parameters(), lr=0.1, weight_decay=0.5)
    for parameter in made.value.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for _ in range(200):
        optimizer.step()
    torch.testing.assert_close(made.value.weight, torch.eye(H), atol=1e-3, rtol=0)


def test_a_value_matrix_of_no_special_start_is_small() -> None:
    torch.manual_seed(0)
    made = FusionLayer(64, FusionOptions(value_initialized=False))
    assert made.value is not None
    assert float(made.value.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
