"""Adapters mixed row by row and token by token beside a model."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from contpeft.adapters import directions
from contpeft.adapters.stacked import StackedLora
from contpeft.errors import SpecError, UnsupportedError
from contpeft.spec import AdapterState

WIDTH, OUT, TOKENS = 6, 4, 3


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(9, WIDTH)
        self.layer = nn.Linear(WIDTH, OUT)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def lora(seed: int, rank: int, module: str = "layer") -> AdapterState:
    generator = torch.Generator().manual_seed(seed)
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": [module]}
    tensors = {
        f"base_model.model.{module}.lora_A.weight": torch.randn(rank, WIDTH, generator=generator),
        f"base_model.model.{module}.lora_B.weight": torch.randn(OUT, rank, generator=generator),
    }
    return AdapterState("lora", config, tensors)


@pytest.fixture
def stack() -> StackedLora:
    return StackedLora([lora(1, 2), lora(2, 3), lora(3, 1)])


def deltas(stack: StackedLora) -> Tensor:
    a, b = stack.factors("layer")
    return b @ a


def test_every_row_gets_its_own_weighted_sum(stack: StackedLora) -> None:
    model, x = Model(), torch.randn(5, TOKENS, WIDTH)
    weights = torch.rand(5, 3)
    with stack.weighed(model, lambda _module, _x: weights[:, None]):
        found = model(x)
    expected = model(x) + torch.einsum("bn,nod,bld->blo", weights, deltas(stack), x)
    torch.testing.assert_close(found, expected)
    assert torch.equal(model(x), model.layer(x))  # nothing stays


def test_one_adapter_a_row_is_as_by_row(stack: StackedLora) -> None:
    model, x, rows = Model(), torch.randn(4, TOKENS, WIDTH), torch.tensor([2, 0, 1, 1])
    with stack.weighed(model, lambda _module, _x: torch.eye(3)[rows][:, None]):
        mixed = model(x)
    with stack.by_row(model, rows):
        torch.testing.assert_close(mixed, model(x))


def test_every_token_may_have_its_own(stack: StackedLora) -> None:
    model, x = Model(), torch.randn(2, TOKENS, WIDTH)
    weights = torch.rand(2, TOKENS, 3)
    told: list[tuple[str, tuple[int, ...]]] = []

    def weigh(module: str, read: Tensor) -> Tensor:
        told.append((module, tuple(read.shape)))
        return weights

    with stack.weighed(model, weigh):
        found = model(x)
    assert told == [("layer", (2, TOKENS, WIDTH))]
    torch.testing.assert_close(found, model(x) + torch.einsum("bln,nod,bld->blo", weights, deltas(stack), x))


def test_directions_are_first_right_singular_vectors(stack: StackedLora) -> None:
    found = directions(*stack.factors("layer"))
    for delta, vector in zip(deltas(stack), found, strict=True):
        expected = torch.linalg.svd(delta).Vh[0]
        torch.testing.assert_close(abs(float(expected @ vector)), 1.0)
        torch.testing.assert_close(vector.norm(), torch.tensor(1.0))
    nothing = directions(torch.randn(1, 2, WIDTH), torch.zeros(1, OUT, 2))
    assert torch.equal(nothing, torch.zeros(1, WIDTH))


def test_embeddings_and_lacking_layers_are_refused() -> None:
    words = AdapterState(
        "lora",
        {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["words"]},
        {
            "base_model.model.words.lora_embedding_A": torch.randn(1, 9),
            "base_model.model.words.lora_embedding_B": torch.randn(WIDTH, 1),
        },
    )
    model = Model()
    with (
        StackedLora([words]).weighed(model, lambda _module, _x: torch.ones(1, 1, 1)),
        pytest.raises(UnsupportedError, match=r"^'words' is an embedding; adapters of those cannot be"),
    ):
        model.words(torch.tensor([[1]]))
    with (
        pytest.raises(SpecError, match="the adapter changes 'other', which Model does not have"),
        StackedLora([lora(1, 2, "other")]).weighed(model, lambda _module, _x: torch.ones(1, 1, 1)),
    ):
        pass
