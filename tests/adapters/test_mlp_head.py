"""Heads of one or two layers: what they compute, and where they may sit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from adapters_oracle import ACTIVATIONS
from adapters_tiny import Module, bert
from torch import Tensor

from contpeft.adapters import AdaptedModel, ClassHead, build_head, check_head
from contpeft.adapters import mlp_head as module
from contpeft.adapters.mlp_head import MLPHead
from contpeft.errors import SpecError
from contpeft.spec import AdapterState, HeadSpec

CLASSES = ("no", "yes", "maybe")


def tensors(layers: int, *, bias: bool = True, width: int = 4) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {"weight": (3, width)}
    if bias:
        shapes["bias"] = (3,)
    if layers == 2:
        shapes |= {"hidden.weight": (width, width), "hidden.bias": (width,)}
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()
    }


def spec(layers: int, activation: str | None = "tanh", **told: Any) -> HeadSpec:
    options = {"layers": layers, "activation": activation, "dropout": 0.0, "reads": "first token", **told}
    return HeadSpec("mlp", CLASSES, options)


def test_the_activations_are_those_of_bottleneck_adapters() -> None:
    assert set(module.ACTIVATIONS) == set(ACTIVATIONS)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
@pytest.mark.parametrize("layers", [1, 2])
def test_scores_are_the_formula(layers: int, activation: str | None, bias: bool) -> None:
    given = tensors(layers, bias=bias)
    head = build_head(spec(layers, activation), given).eval()
    x = torch.linspace(-2, 2, 20, dtype=torch.float64).reshape(5, 4)
    own = {name: tensor.numpy() for name, tensor in given.items()}
    inner = x.numpy()
    if layers == 2:
        inner = inner @ own["hidden.weight"].T + own["hidden.bias"]
        inner = inner if activation is None else ACTIVATIONS[activation](inner)
    wanted = inner @ own["weight"].T + own.get("bias", np.zeros(3))
    np.testing.assert_allclose(head(x).detach().numpy(), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("layers", [1, 2])
def test_a_head_is_rebuilt_from_what_it_tells(layers: int) -> None:
    given, told = tensors(layers), spec(layers, dropout=0.25)
    check_head(told, given)
    head = build_head(told, given)
    assert isinstance(head, MLPHead)
    assert isinstance(head, ClassHead)
    assert head.spec() == told
    again = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    assert again.keys() == given.keys()
    assert all(torch.equal(again[name], given[name]) for name in given)


def test_dropout_acts_in_training_alone() -> None:
    head = build_head(spec(2, dropout=0.5), tensors(2))
    x = torch.ones(64, 4, dtype=torch.float64)
    torch.manual_seed(0)
    assert len(head.train()(x).unique(dim=0)) > 1
    assert len(head.eval()(x).unique(dim=0)) == 1


@pytest.mark.parametrize(
    ("told", "given", "match"),
    [
        (spec(1), tensors(2), "a head of 1 layers has other tensors than these"),
        (spec(2), tensors(1), "a head of 2 layers has other tensors"),
        (spec(3), tensors(2), "a head of 3 layers cannot be built"),
        (spec(1, "tanhh"), tensors(1), "no activation 'tanhh' of a head; did you mean 'tanh'"),
        (spec(1, reads="mean"), tensors(1), "a head reads no 'mean'; there are: first token, pooler"),
        (
            HeadSpec("mlp", ("a",), dict(spec(1).options)),
            tensors(1),
            "a head of 1 classes needs",
        ),
        (spec(1), {**tensors(1), "bias": torch.ones(2)}, "the bias of a head has shape"),
        (HeadSpec("mlp", CLASSES, {"layers": 1}), tensors(1), "cannot be built: .*activation"),
    ],
)
def test_what_does_not_belong_together_is_refused(
    told: HeadSpec, given: dict[str, Tensor], match: str
) -> None:
    with pytest.raises(SpecError, match=match):
        check_head(told, given)


def state(reads: str) -> AdapterState:
    given = {AdapterState.HEAD_PREFIX + name: t.float() for name, t in tensors(2, width=16).items()}
    return AdapterState("statistics", {}, given, spec(2, reads=reads))


def test_inside_a_transformers_model_a_head_must_read_what_that_gives() -> None:
    adapted = AdaptedModel.of(bert())
    adapted.load_head(state("pooler"))
    assert isinstance(adapted.head, MLPHead)
    with pytest.raises(SpecError, match="reads the first token of the base, and BertForSequence"):
        adapted.load_head(state("first token"))


@pytest.mark.parametrize("reads", ["first token", "pooler"])
def test_a_module_of_ones_own_may_give_either(reads: str) -> None:
    adapted = AdaptedModel.of(Module())
    adapted.load_head(state(reads))
    assert isinstance(adapted.head, MLPHead)
