"""What methods read of the weights under an adapter, and which of its factors they leave alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel
from transformers.pytorch_utils import Conv1D

from contpeft.adapters import AdaptedModel, freeze_down, linear_weight
from contpeft.errors import SpecError, UnsupportedError
from contpeft.spec import AdapterSpec


@pytest.fixture
def adapted() -> AdaptedModel:
    torch.manual_seed(0)
    sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24)
    return AdaptedModel(BertModel(BertConfig(vocab_size=32, **sizes), add_pooling_layer=False))


def test_a_weight_is_read_as_outputs_by_inputs() -> None:
    linear, convolution = nn.Linear(3, 5), Conv1D(5, 3)
    assert torch.equal(linear_weight("it", linear), linear.weight)
    assert torch.equal(linear_weight("it", convolution), convolution.weight.T)
    with pytest.raises(SpecError, match=r"^'it' is a LayerNorm, and the start is made of a linear layer"):
        linear_weight("it", nn.LayerNorm(3))


def test_first_factors_can_be_left_as_they_are(adapted: AdaptedModel) -> None:
    attached = adapted.attach(AdapterSpec("lora", r=2))
    freeze_down(attached, "this test")
    trained = {name for name, p in attached.named_parameters().items() if p.requires_grad}
    assert trained == {name for name in attached.named_parameters() if "lora_B" in name}
    assert [p.shape for p in attached.trainable()] == [(16, 2)] * 2
    assert {id(p) for p in adapted.train_only()} == {id(p) for p in attached.trainable()}


def test_what_has_no_such_factors_is_refused(adapted: AdaptedModel) -> None:
    parts = (AdapterSpec("lora", r=2), AdapterSpec("houlsby", reduction_factor=4))
    attached = adapted.attach(AdapterSpec.union(*parts))
    with pytest.raises(UnsupportedError, match=r"^this test works on the factors of LoRA adapters, not"):
        freeze_down(attached, "this test")
    with pytest.raises(UnsupportedError, match=r"^what is trained .* of kind 'union' cannot be chosen$"):
        attached.settle_trainable()
