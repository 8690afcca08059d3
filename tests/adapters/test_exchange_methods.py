"""Folders of PEFT, method by method: what goes out PEFT loads, what PEFT saves comes in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters_methods import each_of_peft, quiet, spec
from adapters_tiny import CLASSES, IDS, LABELS, QUERY, bert, gpt2, logits, same, trained
from peft import IA3Config, LoraConfig, PeftModel, TaskType, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from contpeft.adapters import AdaptedModel
from contpeft.adapters.methods import make_config
from contpeft.adapters.variants import base_method
from contpeft.errors import BaseMismatchError, SpecError, UnsupportedError
from contpeft.spec import AdapterSpec
from contpeft.store import AdapterStore

pytestmark = pytest.mark.usefixtures("no_compiler")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[AdapterStore]:
    opened = AdapterStore(tmp_path / "store")
    yield opened
    opened.close()


@pytest.fixture
def other(tmp_path: Path) -> Iterator[AdapterStore]:
    opened = AdapterStore(tmp_path / "other")
    yield opened
    opened.close()


def by_peft(model: nn.Module, folder: Path) -> PeftModel:
    """Returns PEFT's model, the head of the folder put in by hand as the docs say."""
    if (folder / "contpeft/head.safetensors").exists():
        model.classifier.load_state_dict(load_file(folder / "contpeft/head.safetensors"))
    return PeftModel.from_pretrained(model, folder).eval()


def trained_by_peft(config: Any, folder: Path, seed: int = 0) -> torch.Tensor:
    """Trains and saves an adapter without contpeft; returns what it answers."""
    torch.manual_seed(seed)
    model = get_peft_model(bert(), config)
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(weights, lr=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(model(IDS).logits, LABELS).backward()
        optimizer.step()
    model.save_pretrained(folder, save_embedding_layers=False)
    return logits(model.eval())


@quiet
@each_of_peft
def test_peft_loads_an_export_and_an_import_is_the_same_version(
    method: str, store: AdapterStore, other: AdapterStore, tmp_path: Path
) -> None:
    model = bert()
    adapted = AdaptedModel.of(model)
    state = trained(adapted, spec(method), classes=CLASSES)
    version = store.register("colours", state, base=adapted.base, task="sky")
    store.exchange.export_folder("colours", tmp_path / "out")

    theirs = by_peft(bert(), tmp_path / "out")
    assert torch.equal(logits(theirs), logits(model))
    theirs.save_pretrained(tmp_path / "again", save_embedding_layers=False)
    saved = load_file(tmp_path / "again" / "adapter_model.safetensors")
    assert same(saved, state.adapter_tensors())

    for base in (None, bert()):
        found = other.exchange.import_folder(tmp_path / "out", "colours", base=base)
        assert (found.ref, found.fingerprint, found.sha256) == (
            "colours@1",
            version.fingerprint,
            version.sha256,
        )
        assert (found.config, found.head, found.base) == (version.config, version.head, version.base)
        assert (found.origin, found.task, found.kind) == ("imported", "sky", base_method(method))


@quiet
@each_of_peft
def test_what_peft_saves_comes_in(method: str, store: AdapterStore, tmp_path: Path) -> None:
    other = bert()
    answered = trained_by_peft(make_config(spec(method), other, other.classifier), tmp_path / "theirs")
    version = store.exchange.import_folder(tmp_path / "theirs", "theirs", base=bert())
    model = bert()
    adapted = AdaptedModel.of(model)
    assert version.base == adapted.base
    adapted.attach_state(store.load(version.ref))
    assert torch.equal(logits(model), answered)
    again = store.exchange.import_folder(tmp_path / "theirs", "theirs", base=version.base)
    assert again == version


@pytest.mark.parametrize(
    ("method", "part"),
    [("loha", "hada_w2_b"), ("adalora", "lora_E"), ("lokr", "lokr_w1"), ("oft", "oft_R.weight")],
)
def test_a_factor_that_other_layers_have_is_missed(
    method: str, part: str, store: AdapterStore, tmp_path: Path
) -> None:
    other = bert()
    trained_by_peft(make_config(spec(method), other, other.classifier), tmp_path / "theirs")
    weights = tmp_path / "theirs" / "adapter_model.safetensors"
    tensors = load_file(weights)
    name = f"base_model.model.{QUERY}.{part}"
    assert name in tensors
    save_file({each: tensors[each] for each in tensors if each != name}, weights)
    alone = len([each for each in tensors if QUERY in each]) == 1
    at_hand = bert() if alone else AdaptedModel.of(bert()).base  # a layer that is gone is told by the base
    error = BaseMismatchError if alone else SpecError
    with pytest.raises(error, match=rf"{part}' of '{QUERY}' is missing|1 tensors missing \(first: {name}\)"):
        store.exchange.import_folder(tmp_path / "theirs", "theirs", base=at_hand)
    assert store.names() == []


@pytest.mark.filterwarnings("ignore:Adapter 'default'. 2 LoRA tensor.s. have invalid shape")  # the biases
@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["query"], "use_dora": True},
        {"target_modules": ["query"], "lora_bias": True},
        {"target_modules": ["query"], "trainable_token_indices": [3, 5]},
        {"target_modules": [], "target_parameters": ["query.weight", "output.dense.weight"]},
        {"target_modules": ["word_embeddings", "key"]},
        {"target_modules": r".*layer\.1\.attention\.self\.(query|key)"},
        {"target_modules": ["query", "value"], "layers_to_transform": [1]},
        {"target_modules": ["query", "dense"], "exclude_modules": ["pooler.dense"]},
        {"target_modules": ["query", "value"], "rank_pattern": {"query": 2}, "alpha_pattern": {"value": 3.5}},
        {"target_modules": ["query"], "use_rslora": True, "r": 3},
    ],
    ids="dora bias tokens parameters embeddings regex layers excluded patterns rslora".split(),  # noqa: SIM905
)
def test_options_of_lora_come_in(options: dict[str, Any], store: AdapterStore, tmp_path: Path) -> None:
    config = LoraConfig(init_lora_weights=False, **options)
    answered = trained_by_peft(config, tmp_path / "theirs")
    like = AdaptedModel.of(bert()).base
    for base in (like, bert()):
        version = store.exchange.import_folder(tmp_path / "theirs", "theirs", base=base)
    model = bert()
    AdaptedModel.of(model).attach_state(store.load("theirs"))
    assert torch.equal(logits(model), answered)
    assert version.ref == "theirs@1"
    store.exchange.export_folder("theirs", tmp_path / "out")
    assert torch.equal(logits(by_peft(bert(), tmp_path / "out")), answered)


def test_a_head_of_peft_becomes_the_head_of_the_version(store: AdapterStore, tmp_path: Path) -> None:
    config = LoraConfig(task_type=TaskType.SEQ_CLS, target_modules=["query", "value"])
    answered = trained_by_peft(config, tmp_path / "theirs")
    version = store.exchange.import_folder(tmp_path / "theirs", "theirs", base=bert())
    assert version.head is not None
    assert (version.head.kind, dict(version.head.options)) == ("own", {"module": "classifier"})
    assert (version.config["task_type"], version.config["modules_to_save"]) == (None, None)
    state = store.load("theirs")
    assert {name: t.shape for name, t in state.head_tensors().items()} == {"weight": (3, 16), "bias": (3,)}
    model = bert()
    adapted = AdaptedModel.of(model)
    adapted.attach_state(state)
    adapted.load_head(state)
    assert torch.equal(logits(model), answered)
    store.exchange.export_folder("theirs", tmp_path / "out")
    assert torch.equal(logits(by_peft(bert(), tmp_path / "out")), answered)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modules_to_save": ["pooler"]}, "which is no classifier head"),
        ({"bias": "all"}, "option bias='all' is not supported"),
        (
            {"task_type": TaskType.SEQ_CLS, "modules_to_save": ["pooler"]},
            "modules_to_save holds .*, .*one head",
        ),
    ],
)
def test_what_trains_the_base_stays_out(
    options: dict[str, Any], message: str, store: AdapterStore, tmp_path: Path
) -> None:
    trained_by_peft(LoraConfig(target_modules=["query"], **options), tmp_path / "theirs")
    with pytest.raises(UnsupportedError, match=message):
        store.exchange.import_folder(tmp_path / "theirs", "theirs", base=bert())
    assert store.names() == []


def test_transposed_layers_go_out_and_in(store: AdapterStore, tmp_path: Path) -> None:
    for given in (AdapterSpec("lora"), IA3Config(target_modules=["c_attn"], feedforward_modules=[])):
        model = gpt2()
        adapted = AdaptedModel.of(model)
        adapted.attach(given)
        for parameter in adapted.train_only():
            nn.init.normal_(parameter, std=0.2)
        version = store.register("lm", adapted.state(), base=adapted.base)
        folder = tmp_path / version.kind
        store.exchange.export_folder("lm", folder)
        ids = IDS[:, :5]
        theirs = PeftModel.from_pretrained(gpt2(), folder).eval()
        assert torch.equal(logits(theirs, ids), logits(model, ids))
        assert store.exchange.import_folder(folder, "again", base=gpt2()).config == version.config
