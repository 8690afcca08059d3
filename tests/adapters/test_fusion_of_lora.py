"""Fusion over LoRA adapters in a model: its maths, what it trains, and its way through a store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from adapters_tiny import CLASSES, IDS, LABELS, Module, logits, look, same, trained, values
from torch.nn import functional as F

from contpeft.adapters import AdaptedModel
from contpeft.adapters.fusion import FusionAttachment, FusionOptions, Member
from contpeft.errors import BaseMismatchError, IntegrityError, SpecError, UnsupportedError
from contpeft.spec import AdapterSpec, Parent, Single, Version
from contpeft.spec.lora import ROOT, lora_scaling
from contpeft.store import AdapterStore

SPECS = {
    "mail": AdapterSpec("lora", r=4),
    "chat": AdapterSpec("lora", r=2, use_rslora=True, targets=["query", "value", "output.dense"]),
    "calls": AdapterSpec("lora", r=3, dropout=0.5),
}
QUERY = "encoder.layer.0.attention.self.query"


@pytest.fixture
def store(tmp_path: Path) -> AdapterStore:
    opened = AdapterStore(tmp_path / "store")
    for name, spec in SPECS.items():
        adapted = AdaptedModel.of(Module())
        opened.register(name, trained(adapted, spec, classes=CLASSES), base=adapted.base)
    return opened


def members(store: AdapterStore, *names: str) -> list[Member]:
    return [(store.show(name), store.load(name)) for name in names or SPECS]


def fused(store: AdapterStore, options: FusionOptions | None = None) -> tuple[AdaptedModel, FusionAttachment]:
    adapted = AdaptedModel.of(Module())
    torch.manual_seed(0)
    attachment = adapted.attach_fusion(members(store), options)
    for parameter in attachment.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return adapted, attachment


@pytest.mark.parametrize(
    "options", [FusionOptions(), FusionOptions(residual_before=True), FusionOptions(value=False)]
)
def test_a_site_is_the_base_and_the_mixture_of_what_adapters_add(
    store: AdapterStore, options: FusionOptions
) -> None:
    adapted, attachment = fused(store, options)
    layer = adapted.model.get_submodule(QUERY)
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        answered = np.asarray(layer(x), dtype=np.float64)
        said = np.asarray(layer.base_layer(x), dtype=np.float64)
    names = ("query.weight", "query.bias", "key.weight", "key.bias", "value.offset")
    prefix, tensors = f"{ROOT}{QUERY}.fusion.", attachment.tensors()
    held = {name: np.asarray(tensors[prefix + name]) for name in names if prefix + name in tensors}
    added = []
    for _, state in members(store):
        b, a = (np.asarray(state.tensors[f"{ROOT}{QUERY}.lora_{f}.weight"], dtype=np.float64) for f in "BA")
        added.append(np.asarray(x, dtype=np.float64) @ (lora_scaling(state.config, QUERY) * b @ a).T)
    before = said if options.residual_before else 0
    outputs = np.stack([each + before for each in added], axis=2)
    query = said @ held["query.weight"].T + held["query.bias"]
    keys = outputs @ held["key.weight"].T + held["key.bias"]
    scores = np.einsum("bth,btnh->btn", query, keys)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    if options.value:
        outputs = outputs + outputs @ held["value.offset"].T
    expected = np.einsum("btn,btnh->bth", weights, outputs) + (0 if options.residual_before else said)
    np.testing.assert_allclose(answered, expected, rtol=1e-4, atol=1e-4)


def test_only_the_fusion_trains_and_the_penalty_holds_its_values(store: AdapterStore) -> None:
    adapted, attachment = fused(store)
    module, before = adapted.module, values(Module())
    optimizer = torch.optim.SGD(adapted.train_only(), lr=0.1)
    first = {name: tensor.clone() for name, tensor in attachment.tensors().items()}
    penalty = attachment.penalty().item()
    for _ in range(3):
        optimizer.zero_grad()
        (F.cross_entropy(module(IDS), LABELS) + attachment.penalty()).backward()
        optimizer.step()
    assert attachment.penalty().item() < penalty
    changed = {name for name, tensor in attachment.tensors().items() if not torch.equal(first[name], tensor)}
    # The bias of keys is the same for all adapters and cancels.
    assert {name.rpartition(".fusion.")[2] for name in changed} >= {
        "query.weight",
        "key.weight",
        "value.offset",
    }
    adapted.detach()
    now = values(module)
    assert all(torch.equal(now[name], before[name]) for name in before if name.startswith("model."))


def test_members_are_as_they_were_when_they_were_stored(store: AdapterStore) -> None:
    _, attachment = fused(store)
    names = {name.rpartition(".fusion.")[2] for name in attachment.tensors()}
    assert names == {"query.weight", "query.bias", "key.weight", "key.bias", "value.offset"}
    parameters = {id(parameter) for parameter in attachment.parameters()}
    assert parameters == {id(parameter) for parameter in attachment.named_parameters().values()}


def test_a_stored_fusion_answers_as_when_it_was_trained(store: AdapterStore) -> None:
    adapted, _ = fused(store)
    expected = logits(adapted.module.eval())
    parents = [Parent(version.ref, "frozen") for version, _ in members(store)]
    made = store.register("all", adapted.state(CLASSES), base=adapted.base, parents=parents)
    assert (made.kind, made.config["over"][0]["ref"]) == ("fusion", "mail@1")
    module = Module()
    fresh = AdaptedModel.of(module)
    before, plain = look(module), logits(module)

    def load(ref: str) -> Member:
        return store.show(ref), store.load(ref)

    with fresh.applied(Single("all@1"), load):
        assert torch.equal(logits(module), expected)
        assert not any(parameter.requires_grad for parameter in fresh.attachment.parameters())  # type: ignore[union-attr]
    assert look(module) == before
    assert torch.equal(logits(module), plain)
    for name in SPECS:
        with fresh.applied(Single(f"{name}@1"), load):
            own = logits(module)
        alone = AdaptedModel.of(Module())
        alone.attach_state(store.load(name))
        alone.load_head(store.load(name))
        assert torch.equal(own, logits(alone.module))


def test_attention_is_watched_on_request(store: AdapterStore) -> None:
    adapted, attachment = fused(store)
    logits(adapted.module)
    assert attachment.attention() == {}
    attachment.watch()
    logits(adapted.module)
    found = attachment.attention()
    parts = ("attention.self.query", "attention.self.value", "attention.output.dense", "output.dense")
    assert set(found) == {f"encoder.layer.{layer}.{part}" for layer in (0, 1) for part in parts}
    assert found[QUERY].shape == (3, 8, 3)
    torch.testing.assert_close(found[QUERY].sum(-1), torch.ones(3, 8))


def test_the_model_is_restored_when_a_fusion_leaves(store: AdapterStore) -> None:
    module = Module()
    adapted = AdaptedModel.of(module)
    before, held = look(module), values(module)
    adapted.attach_fusion(members(store))
    assert look(module) != before
    adapted.detach()
    assert look(module) == before
    assert same(values(module), held)


def test_what_cannot_be_fused_is_refused_and_nothing_is_left(store: AdapterStore) -> None:
    module = Module()
    adapted = AdaptedModel.of(module)
    before = look(module)
    with pytest.raises(SpecError, match="needs two adapters at least, there are 1"):
        adapted.attach_fusion(members(store, "mail"))
    other = AdaptedModel.of(Module())
    words = trained(other, AdapterSpec("lora", r=2, targets=["word_embeddings"]), classes=CLASSES)
    store.register("words", words, base=other.base)
    with pytest.raises(UnsupportedError, match="is a Embedding; fusion is over linear layers"):
        adapted.attach_fusion(members(store, "mail", "words"))
    far = AdaptedModel.of(Module(seed=7))
    store.register("far", trained(far, AdapterSpec("lora", r=2), classes=CLASSES), base=far.base)
    with pytest.raises(BaseMismatchError, match="far@1 was trained on"):
        adapted.attach_fusion(members(store, "mail", "far"))
    assert look(module) == before


def test_a_fusion_over_other_versions_than_it_was_made_over_is_refused(store: AdapterStore) -> None:
    adapted, _ = fused(store)
    store.register("all", adapted.state(CLASSES), base=adapted.base)

    def load(ref: str) -> tuple[Version, object]:
        ref = {"mail@1": "chat@1"}.get(ref, ref)
        return store.show(ref), store.load(ref)

    fresh = AdaptedModel.of(Module())
    before = look(fresh.module)
    wrong = pytest.raises(IntegrityError, match="made over mail@1 of tensors")
    with wrong, fresh.applied(Single("all@1"), load):  # type: ignore[arg-type]
        pass
    assert look(fresh.module) == before
