"""Which modules a method is applied to."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from adapters_tiny import Module, bert, distilbert, encoder, gpt2, t5, vit
from peft import LoraConfig
from torch import nn
from transformers import (
    PreTrainedModel,
    ResNetConfig,
    ResNetModel,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from contpeft.adapters import AdaptedModel, AnySpec
from contpeft.errors import SpecError
from contpeft.spec import AdapterSpec


def roberta() -> RobertaForSequenceClassification:
    """A model whose head has a layer called as layers of the base are: ``dense``."""
    sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    return RobertaForSequenceClassification(RobertaConfig(vocab_size=48, max_position_embeddings=16, **sizes))


def places(model: nn.Module, spec: AnySpec) -> set[str]:
    """Returns the dotted names of what an adapter was put around, layer numbers as ``*``."""
    adapted = AdaptedModel.of(model)
    before = {name: id(each) for name, each in adapted.model.named_modules()}
    adapted.attach(spec)
    after = {name: id(each) for name, each in adapted.model.named_modules()}
    return {re.sub(r"\.\d+\.", ".*.", name) for name, key in before.items() if after[name] != key}


@pytest.mark.parametrize(
    ("make", "block", "names"),
    [
        (bert, "bert.encoder.layer.*.attention.self", {"query", "value"}),
        (vit, "vit.layers.*.attention", {"q_proj", "v_proj"}),
        (gpt2, "transformer.h.*.attn", {"c_attn"}),
        (distilbert, "distilbert.transformer.layer.*.attention", {"q_lin", "v_lin"}),
        (t5, "encoder.block.*.layer.*.SelfAttention", {"q", "v"}),
        (Module, "encoder.layer.*.attention.self", {"query", "value"}),
    ],
)
def test_query_and_value_are_found(make: Callable[[], nn.Module], block: str, names: set[str]) -> None:
    for method in ("lora", "ia3"):
        assert places(make(), AdapterSpec(method)) == {f"{block}.{name}" for name in names}


def test_normalisation_layers_are_found() -> None:
    layers = "bert.encoder.layer.*."
    assert places(bert(), AdapterSpec("ln_tuning")) == {
        "bert.embeddings.LayerNorm",
        layers + "attention.output.LayerNorm",
        layers + "output.LayerNorm",
    }
    assert places(t5(), AdapterSpec("ln_tuning")) == {
        "encoder.block.*.layer.*.layer_norm",
        "encoder.final_layer_norm",
    }


def test_the_input_embeddings_of_chosen_tokens() -> None:
    assert places(bert(), AdapterSpec("trainable_tokens", token_indices=[1])) == {
        "bert.embeddings.word_embeddings"
    }


@pytest.mark.parametrize("as_peft", [False, True])
@pytest.mark.parametrize(
    ("make", "head"), [(bert, "classifier"), (vit, "classifier"), (roberta, "classifier"), (gpt2, "lm_head")]
)
def test_all_linear_is_every_linear_layer_but_the_head(
    make: Callable[[], PreTrainedModel], head: str, as_peft: bool
) -> None:
    spec: AnySpec = (
        LoraConfig(target_modules="all-linear") if as_peft else AdapterSpec("lora", targets="all-linear")
    )
    model = make()
    linear = {
        re.sub(r"\.\d+\.", ".*.", name)
        for name, each in model.named_modules()
        if type(each).__name__ in ("Linear", "Conv1D") and not name.startswith(head)
    }
    assert places(model, spec) == linear
    assert len(linear) >= 4


def test_an_ending_shared_with_the_head_leaves_the_head_alone() -> None:
    for targets in (["dense"], r".*dense"):
        assert places(roberta(), AdapterSpec("lora", targets=targets)) == {
            "roberta.encoder.layer.*.attention.output.dense",
            "roberta.encoder.layer.*.intermediate.dense",
            "roberta.encoder.layer.*.output.dense",
        }


def test_a_regular_expression_and_whole_names() -> None:
    asked = "bert.encoder.layer.1.attention.self.key"
    key = {"bert.encoder.layer.*.attention.self.key"}
    for targets in (r".*\.1\..*key", [asked]):
        model = bert()
        assert places(model, AdapterSpec("lora", targets=targets)) == key
        assert type(model.bert.encoder.layer[0].attention.self.key) is nn.Linear


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["quer"], "no module 'quer' in BertForSequenceClassification; did you mean 'query'?"),
        (["query", "vlaue"], "no module 'vlaue' in BertForSequenceClassification; did you mean 'value'?"),
        ("quer", "no module 'quer' in BertForSequenceClassification; did you mean 'query'?"),
        (["classifier"], "target 'classifier' is the head, which is trained whole anyway; leave it out"),
    ],
)
def test_a_target_that_is_none_is_named(targets: Any, message: str) -> None:
    for spec in (AdapterSpec("lora", targets=targets), LoraConfig(target_modules=targets)):
        with pytest.raises(SpecError) as caught:
            AdaptedModel.of(bert()).attach(spec)
        assert str(caught.value) == message


def test_a_model_without_query_and_value_says_what_it_has() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = encoder()
            for layer in self.model.encoder.layer:
                layer.attention.self.strange = layer.attention.self.query
                layer.attention.self.query = nn.Identity()

    with pytest.raises(SpecError) as caught:
        AdaptedModel.of(Odd()).attach(AdapterSpec("lora"))
    assert str(caught.value) == (
        "no query and value projections found in BertModel; name them with targets=[...] or "
        "targets='all-linear'; its linear layers end in: dense, key, strange, value"
    )


def test_convolutions_can_be_named() -> None:
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic")
    assert places(ResNetModel(config), AdapterSpec("lora", targets=["convolution"])) == {
        "embedder.embedder.convolution",
        "encoder.stages.*.layers.*.layer.*.convolution",
    }
