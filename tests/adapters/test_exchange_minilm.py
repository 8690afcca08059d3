"""Out and in on trained weights: the sentence encoder MiniLM."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForSequenceClassification, BertModel

from contpeft.adapters import AdaptedModel
from contpeft.errors import BaseMismatchError
from contpeft.store import AdapterStore

IDS = torch.arange(1000, 1024).reshape(2, 12)
OPTIONS = {
    "target_modules": ["query", "value", "dense"],
    "use_rslora": True,
    "r": 4,
    "lora_alpha": 3,
    "rank_pattern": {"value": 11, r"layer\.0\.attention\.self\.query": 2},
    "alpha_pattern": {r"layer\.1\.output\.dense": 9.5},
}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[AdapterStore]:
    opened = AdapterStore(tmp_path / "store")
    yield opened
    opened.close()


def states(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(IDS).last_hidden_state


def randomised(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.02)
    return model


def test_both_profiles_answer_alike(
    minilm: BertModel, minilm_folder: Path, store: AdapterStore, tmp_path: Path
) -> None:
    plain = states(minilm)
    adapted = AdaptedModel.of(minilm)
    adapted.attach(LoraConfig(**OPTIONS))
    randomised(minilm)
    answered = states(minilm)
    effect = (answered - plain).abs().max()
    assert effect > 0.1
    version = store.register("mail", adapted.state(), base=adapted.base)
    adapted.detach()
    for profile, modules, limit in (("faithful", None, 0.0), ("serving", minilm, 1e-5)):
        store.exchange.export_folder("mail", tmp_path / profile, profile=profile, base=modules)
        base = AutoModel.from_pretrained(minilm_folder, num_hidden_layers=2)
        theirs = states(PeftModel.from_pretrained(base, tmp_path / profile))
        assert (theirs - answered).abs().max() <= limit * effect
    found = store.exchange.import_folder(tmp_path / "faithful", "again", base=minilm)
    assert (found.fingerprint, found.config, found.base) == (
        version.fingerprint,
        version.config,
        version.base,
    )
    assert torch.equal(states(minilm), plain)
    with pytest.raises(BaseMismatchError, match=r"on 'model' .* the base given is 'model'"):
        store.exchange.import_folder(tmp_path / "faithful", "again", base=minilm_folder)


def test_an_adapter_of_peft_comes_in_by_the_folder_of_its_base(
    minilm_folder: Path, store: AdapterStore, tmp_path: Path
) -> None:
    model = randomised(get_peft_model(AutoModel.from_pretrained(minilm_folder), LoraConfig(**OPTIONS)))
    model.save_pretrained(tmp_path / "theirs", save_embedding_layers=False)
    version = store.exchange.import_folder(tmp_path / "theirs", "theirs", base=minilm_folder)
    base = AutoModel.from_pretrained(minilm_folder)
    adapted = AdaptedModel.of(base)
    assert version.base == adapted.base
    adapted.attach_state(store.load("theirs"))
    assert torch.equal(states(base), states(model))
    store.exchange.export_folder("theirs", tmp_path / "served", profile="serving", base=minilm_folder)
    served = PeftModel.from_pretrained(AutoModel.from_pretrained(minilm_folder), tmp_path / "served")
    torch.testing.assert_close(states(served), states(model), rtol=1e-4, atol=1e-4)


def test_a_classifier_of_peft_finds_its_class(
    minilm_folder: Path, store: AdapterStore, tmp_path: Path
) -> None:
    config = LoraConfig(task_type=TaskType.SEQ_CLS, target_modules=["query", "value"])
    made = AutoModelForSequenceClassification.from_pretrained(minilm_folder, num_labels=5)
    randomised(get_peft_model(made, config)).save_pretrained(tmp_path / "theirs", save_embedding_layers=False)
    version = store.exchange.import_folder(tmp_path / "theirs", "theirs", base=minilm_folder)
    fresh = AutoModelForSequenceClassification.from_pretrained(minilm_folder, num_labels=5)
    adapted = AdaptedModel.of(fresh)
    assert version.base == adapted.base
    state = store.load("theirs")
    adapted.attach_state(state)
    adapted.load_head(state)
    with torch.no_grad():
        assert torch.equal(fresh.eval()(IDS).logits, made.eval()(IDS).logits)


def test_a_layer_left_out_is_found_on_the_base(
    minilm_folder: Path, store: AdapterStore, tmp_path: Path
) -> None:
    model = randomised(get_peft_model(AutoModel.from_pretrained(minilm_folder), LoraConfig(**OPTIONS)))
    model.save_pretrained(tmp_path / "theirs", save_embedding_layers=False)
    weights = tmp_path / "theirs" / "adapter_model.safetensors"
    save_file({n: t for n, t in load_file(weights).items() if "layer.3.output" not in n}, weights)
    with pytest.raises(
        BaseMismatchError, match=r"is of another base: .* 2 tensors missing .*layer\.3\.output\.dense"
    ):
        store.exchange.import_folder(tmp_path / "theirs", "theirs", base=minilm_folder)
    assert store.names() == []
