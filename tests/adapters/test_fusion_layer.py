"""The fusion layer against its maths in numpy, plain and folded, in float64."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest
import torch
from fusion_oracle import Array, fused_by_hand, matrix, penalty_by_hand
from torch import Tensor

from contpeft.adapters.fusion import Bottlenecks, FusionLayer, FusionOptions
from contpeft.adapters.fusion.matrices import Rank
from contpeft.errors import SpecError

B, T, N, H, R = 2, 3, 4, 8, 2


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


def parameters(made: FusionLayer) -> dict[str, Array]:
    return {name: np.asarray(p.detach()) for name, p in made.named_parameters()}


def by_hand(made: FusionLayer, source: Array, outputs: Array, residual: Array, heat: float = 1.0) -> Array:
    return fused_by_hand(parameters(made), made.options, source, outputs, residual, heat)


FLAGS = (
    "key",
    "query",
    "value",
    "value_before_softmax",
    "value_initialized",
    "residual_before",
    "temperature",
    "regularization",
)
RANKS: tuple[Rank, ...] = (None, "diagonal", 1, 3)


def variants() -> Iterator[FusionOptions]:
    """Yields every fusion layer there is, but for dropout."""
    for rank in RANKS:
        for values in product((False, True), repeat=len(FLAGS)):
            told = dict(zip(FLAGS, values, strict=True))
            if isinstance(rank, int) and told["value"] and not told["value_initialized"]:
                continue  # refused, see below
            yield FusionOptions(**told, rank=rank)


@pytest.mark.parametrize("rank", RANKS)
def test_plain_and_folded_are_the_maths_in_every_variant(rank: Rank) -> None:
    source, adapters, residual = inputs()
    told = np.asarray(source), np.asarray(adapters.outputs()), np.asarray(residual)
    found = [options for options in variants() if options.rank == rank]
    assert len(found) == (192 if isinstance(rank, int) else 256)
    for options in found:
        made = layer(options)
        expected = by_hand(made, *told, heat=50.0 if options.temperature else 1.0)
        with torch.no_grad():
            plain = made(source, adapters.outputs(), residual)
            folded = made.folded(source, adapters, residual)
        np.testing.assert_allclose(plain, expected, rtol=0, atol=1e-9, err_msg=str(options))
        np.testing.assert_allclose(folded, expected, rtol=0, atol=1e-9, err_msg=str(options))


def test_the_penalty_is_the_maths_in_every_variant() -> None:
    for options in variants():
        made = layer(options)
        there = options.value and options.regularization
        expected = penalty_by_hand(parameters(made)) if there else 0.0
        assert made.penalty().item() == pytest.approx(expected, rel=1e-12, abs=1e-12), options


@pytest.mark.parametrize(
    ("rank", "counted"), [(None, 3 * H * H + 2 * H), (2, 12 * H + 2 * H), ("diagonal", 5 * H)]
)
def test_a_rank_saves_parameters(rank: Rank, counted: int) -> None:
    made = FusionLayer(H, FusionOptions(rank=rank))
    assert sum(parameter.numel() for parameter in made.parameters()) == counted


@pytest.mark.parametrize("rank", RANKS)
def test_it_begins_with_scores_near_nothing_and_values_at_the_identity(rank: Rank) -> None:
    torch.manual_seed(0)
    made = FusionLayer(64, FusionOptions(rank=rank))
    held = parameters(made)
    for name in ("query", "key"):
        entries = matrix(held, name)
        used = np.diag(entries) if rank == "diagonal" else entries.ravel()
        assert float(np.std(used)) == pytest.approx(0.02, rel=0.25)
        assert not held[f"{name}.bias"].any()
    np.testing.assert_allclose(matrix(held, "value"), np.eye(64), atol=1e-6)
    assert made.penalty().item() <= 1e-10


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("residual_before", [False, True])
def test_folded_gradients_are_the_plain_ones(rank: Rank, residual_before: bool) -> None:
    made = layer(FusionOptions(rank=rank, residual_before=residual_before))
    source, adapters, residual = inputs()
    gradients = []
    for output in (made(source, adapters.outputs(), residual), made.folded(source, adapters, residual)):
        made.zero_grad()
        output.square().sum().backward()
        gradients.append({name: p.grad.clone() for name, p in made.named_parameters() if p.grad is not None})
    for name, gradient in gradients[0].items():
        np.testing.assert_allclose(gradients[1][name], gradient, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("residual_before", [False, True])
def test_dropped_scores_are_the_same_folded_or_not(residual_before: bool) -> None:
    made = layer(FusionOptions(dropout_prob=0.5, residual_before=residual_before)).train()
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
    assert made.penalty().item() == pytest.approx(penalty_by_hand(parameters(made)), rel=1e-12)
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


def test_what_is_no_share_and_no_rank_is_said() -> None:
    with pytest.raises(SpecError, match="dropout_prob 1 is no share"):
        FusionOptions(dropout_prob=1.0)
    for wrong in (0, -2, True, "diag", 1.5):
        with pytest.raises(SpecError, match=f"rank {wrong!r} is none; give 1 or more, 'diagonal', or None"):
            FusionOptions(rank=wrong)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="with rank 2 the value matrix begins at the identity; leave"):
        FusionOptions(rank=2, value_initialized=False)
    FusionOptions(rank=2, value_initialized=False, value=False)
    with pytest.raises(SpecError, match="a fusion of rank 9 is over a layer of width 8"):
        FusionLayer(H, FusionOptions(rank=9))


def test_decay_draws_the_value_matrix_to_the_identity() -> None:
    made = layer(FusionOptions())
    assert made.value is not None
    optimizer = torch.optim.AdamW(made.value.parameters(), lr=0.1, weight_decay=0.5)
    for parameter in made.value.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for _ in range(200):
        optimizer.step()
    np.testing.assert_allclose(matrix(parameters(made), "value"), np.eye(H), atol=1e-3)


def test_a_value_matrix_of_no_special_start_is_small() -> None:
    torch.manual_seed(0)
    made = FusionLayer(64, FusionOptions(value_initialized=False))
    assert float(matrix(parameters(made), "value").std()) == pytest.approx(0.02, rel=0.1)
    diagonal = FusionLayer(1024, FusionOptions(value_initialized=False, rank="diagonal"))
    entries = np.diag(matrix(parameters(diagonal), "value"))
    assert (float(entries.std()), float(abs(entries.mean()))) == pytest.approx((0.02, 0.0), abs=0.002)
