"""Recipes with gates: what is trained, what a layer computes, and that the store alone answers the same."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from strategies_tiny import Way, examples, learnt, same, training
from torch import Tensor, nn

from contpeft.adapters import AdaptedModel
from contpeft.adapters.gated import GatedAttachment, GateOptions
from contpeft.errors import SpecError, UnsupportedError
from contpeft.spec import AdapterSpec, Drop, Gated, Parent, Single, Stack
from contpeft.store import AdapterStore
from contpeft.strategies import Cosine, Recipe, RoutedAsBefore, WithGate, find_recipe
from contpeft.strategies.gating import gate_weights
from contpeft.strategies.recipes import GATING

NAMES = sorted(GATING)
REFS = ("way.one@1", "way.two@1", "way.three@1")
SENTENCES = examples("abcdef", 4, seed=7)[0]


def scores(way: Way, composition: Any) -> Tensor:
    context = way.context(0)
    with context.adapted.applied(composition, context.load):
        return context.features.scores(SENTENCES)


@pytest.mark.parametrize("name", NAMES)
def test_a_task_adds_an_adapter_with_a_gate_and_earlier_ones_stay(store: AdapterStore, name: str) -> None:
    way = learnt(store, find_recipe(name))
    trained = [store.show(ref) for ref in REFS]
    assert [version.kind for version in trained] == ["gated"] * 3
    assert trained[2].parents == (Parent("way.one@1", "frozen"), Parent("way.two@1", "frozen"))
    assert way.answers[2] == {"main": Gated(REFS)}
    assert [way.answers[step]["main"] for step in (0, 1)] == [Gated(REFS[:1]), Gated(REFS[:2])]
    context = way.started(2)
    attached = context.adapted.attachment
    assert isinstance(attached, GatedAttachment)
    trainable = {id(p) for p in context.adapted.train_only()}
    frozen = [p for name, p in context.adapted.model.named_parameters() if id(p) not in trainable]
    assert not any(p.requires_grad for p in frozen)
    assert {id(p) for p in attached.gate.parameters()} <= trainable


@pytest.mark.parametrize("name", NAMES)
def test_the_store_alone_answers_bit_for_bit_as_the_model_that_was_trained(
    store: AdapterStore, name: str
) -> None:
    way = learnt(store, find_recipe(name))
    live = AdaptedModel.of(way.module)
    assert live.active
    trained = way.context(2).features.scores(SENTENCES)
    assert live.head is not None
    assert torch.equal(scores(Way(store, Recipe()), way.answers[2]["main"]), trained)


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_says_what_the_formula_says(store: AdapterStore, name: str) -> None:
    """``W x + b + sum_i w_i s_i B_i A_i x``, in double precision, from the stored tensors alone."""
    way = learnt(store, find_recipe(name))
    context, path = way.context(0), "encoder.layer.0.attention.self.query"
    own: Any = context.adapted.model.get_submodule(path)
    base: nn.Linear = own.base_layer
    rows = context.features.embedded(SENTENCES, "some")
    weights = gate_weights(Gated(REFS), context.load, rows).double().numpy()
    with context.adapted.applied(Gated(REFS), context.load):
        x, said = heard(context.adapted.model.get_submodule(path), way, SENTENCES)
    expected = x @ base.weight.detach().double().numpy().T + base.bias.detach().double().numpy()
    for place, ref in enumerate(REFS):
        tensors = store.load(ref).tensors
        a, b = (tensors[f"base_model.model.{path}.lora_{each}.weight"].double().numpy() for each in "AB")
        expected += weights[:, place, None, None] * 2 * (x @ a.T @ b.T)  # alpha / r = 2
    np.testing.assert_allclose(said, expected, atol=2e-5)
    assert np.ptp(weights[:, 0]) > 1e-3


def heard(layer: nn.Module, way: Way, inputs: Any) -> tuple[Any, Any]:
    """Returns what a layer reads and says of some inputs."""
    found: list[Tensor] = []
    handle = layer.register_forward_hook(lambda _module, args, output: found.extend((args[0], output)))
    with torch.no_grad():
        module: Any = way.module
        module.encode(module.collate(inputs))
    handle.remove()
    return tuple(each.double().numpy() for each in found)


def test_attaching_a_further_adapter_changes_nothing_where_gates_are_independent(store: AdapterStore) -> None:
    way = learnt(store, find_recipe("gainlora"), tasks=2)
    context = way.context(0)
    with context.adapted.applied(Gated(REFS[:2]), context.load):
        before = context.features.current(SENTENCES)
    started = way.started(2)
    torch.testing.assert_close(started.features.current(SENTENCES), before, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("name", "low", "high"), [("gainlora", 0, 0.9641), ("sapt", 1, 1), ("mocl", -1, 1)])
def test_one_task_is_plain_lora_times_its_weight(
    store: AdapterStore, name: str, low: float, high: float
) -> None:
    """One weight of attention is 1, so that training is plain LoRA's bit for bit; the others scale it."""
    way = learnt(store, find_recipe(name), tasks=1)
    plain = learnt(store, Recipe(head=Cosine()), tasks=1, line="plain")
    alone = store.load("plain.one@1").tensors
    own = {n: t for n, t in store.load("way.one@1").tensors.items() if not n.startswith("gate.")}
    assert same(own, dict(alone)) == (name == "sapt")
    context, data = way.context(0), training("ab")
    rows = context.features.embedded(data.inputs, data.digest)
    weights = gate_weights(Gated(REFS[:1]), context.load, rows)
    assert low <= weights.min() <= weights.max() <= high
    if name == "sapt":
        assert torch.equal(scores(way, Gated(REFS[:1])), scores(plain, Single("plain.one@1")))


def test_a_single_version_answers_with_its_own_gate(store: AdapterStore) -> None:
    way = learnt(store, find_recipe("gainlora"), tasks=2)
    assert torch.equal(scores(way, Single("way.two@1")), scores(way, Gated(("way.two@1",))))


@pytest.mark.parametrize("name", ["gainlora-unprojected", "sapt"])
def test_with_the_gates_of_then_earlier_rows_answer_as_then(store: AdapterStore, name: str) -> None:
    """What separates the drift of gates from that of all else: the head of now, the gates of then."""
    way = learnt(store, find_recipe(name))
    then = scores(way, Gated(REFS[:1]))
    swapped = scores(way, Gated(REFS[:1], head=REFS[2]))[:, :2]
    now = scores(way, Gated(REFS))[:, :2]
    torch.testing.assert_close(swapped, then, rtol=0, atol=1e-5)
    assert (now - then).abs().max() > 1e-2


def test_kept_rows_hold_the_routing(store: AdapterStore) -> None:
    free, kept = (learnt(store, find_recipe(name), line=name) for name in ("sapt", "sapt-kept"))
    data = training("ab")
    rows = free.context(0).features.embedded(data.inputs, data.digest)

    def drift(way: Way) -> float:
        told = [gate_weights(way.answers[step]["main"], way.context(0).load, rows) for step in (0, 2)]
        return float((told[1][:, 0] - told[0][:, 0]).abs().mean())

    assert drift(kept) < 0.7 * drift(free)
    assert store.load("sapt-kept.routing@3").tensors["weights"].shape == (48, 3)
    assert not store.load("sapt-kept.routing@3").tensors["weights"][:16, 1:].any()


def test_the_divergence_is_the_formula_and_nothing_at_weight_zero(store: AdapterStore) -> None:
    recipe = find_recipe("sapt-kept")
    context = learnt(store, recipe, tasks=1).started(1)
    kept, attached = context.recall("routing"), context.adapted.attachment
    assert kept is not None
    assert isinstance(attached, GatedAttachment)
    now = attached.weigh(kept.tensors["rows"]).detach().double().numpy()
    loss = RoutedAsBefore(2.0).loss(context, None, None)
    assert loss is not None
    assert loss.item() == pytest.approx(2 * np.mean(-np.log(now[:, 0])), rel=1e-5)
    zero = learnt(store, replace(recipe, penalty=RoutedAsBefore(0.0)), tasks=2, line="zero")
    none = learnt(store, replace(recipe, penalty=None), tasks=2, line="none")
    assert same(*(dict(store.load(f"{way.line}.two@1").tensors) for way in (zero, none)))


def test_the_divergence_is_for_attention(store: AdapterStore) -> None:
    way = Way(store, replace(find_recipe("mocl"), penalty=RoutedAsBefore()))
    with pytest.raises(
        UnsupportedError, match="routing as before compares distributions, and gates of rule 'cosine' have"
    ):
        way.learn(0)


def test_compositions_that_cannot_be_are_refused(store: AdapterStore) -> None:
    way = learnt(store, find_recipe("gainlora"), tasks=1)
    learnt(store, find_recipe("mocl"), tasks=1, line="vectors")
    learnt(store, Recipe(head=Cosine()), tasks=1, line="plain")
    gated, other = Gated(("way.one@1",)), Gated(("vectors.one@1", "way.one@1"))
    for composition, error, words in (
        (Gated(("plain.one@1",)), SpecError, "an adapter of kind 'lora' has no gate"),
        (other, SpecError, "do not weigh together"),
        (Drop(gated, (0,)), UnsupportedError, "nor of adapters with gates"),
        (
            Stack((Single("plain.one@1"), Gated(("way.one@1",)))),
            UnsupportedError,
            "an adapter with a gate cannot",
        ),
        (
            Stack((Gated(("way.one@1",)), Gated(("vectors.one@1",)))),
            UnsupportedError,
            "cannot stand over|already",
        ),
    ):
        with pytest.raises(error, match=words):
            scores(way, composition)
    assert AdaptedModel.of(way.module).verify_base() == store.show("way.one@1").base


def test_gated_versions_may_lie_below_others(store: AdapterStore) -> None:
    way = learnt(store, find_recipe("gainlora"), tasks=2)
    learnt(store, Recipe(head=Cosine()), tasks=1, line="plain")
    over = scores(way, Stack((Gated(REFS[:2]), Single("plain.one@1")), head=REFS[1]))
    assert (over - scores(way, Gated(REFS[:2]))).abs().max() > 1e-2


def test_what_a_gate_cannot_weigh_is_refused_and_the_model_left_bare(store: AdapterStore) -> None:
    for spec, words in (
        (AdapterSpec("ia3"), "not an adapter of method 'ia3'"),
        (
            AdapterSpec("dora", r=2),
            "not an adapter of method 'lora' that makes a Linear a variant",
        ),
        (AdapterSpec("prefix_tuning", num_virtual_tokens=2), "not an adapter of method 'prefix_tuning'"),
    ):
        way = Way(store, find_recipe("mocl"), spec=spec)
        with pytest.raises(UnsupportedError, match=words):
            way.learn(0)
        assert not AdaptedModel.of(way.module).active
        assert not any("lora" in name or "gate" in name for name, _ in way.module.named_modules())


def test_another_way_does_not_go_on_under_the_same_name(store: AdapterStore) -> None:
    begun = learnt(store, find_recipe("gainlora"), tasks=1)
    smaller = replace(find_recipe("gainlora"), init=WithGate(GateOptions(hidden=64)))
    for recipe, words in ((smaller, "keep one recipe"), (find_recipe("mocl"), "keep one recipe")):
        with pytest.raises(SpecError, match=words):
            Way(store, recipe, history=begun.history).learn(1)


def test_without_examples_it_says_what_it_needs(store: AdapterStore) -> None:
    with pytest.raises(UnsupportedError, match="starting a gate needs the task's training examples"):
        Way(store, find_recipe("gainlora"), data=False).learn(0)


def test_a_gated_version_is_no_adapter_of_pefts(store: AdapterStore, tmp_path: Any) -> None:
    learnt(store, find_recipe("mocl"), tasks=1)
    with pytest.raises(UnsupportedError, match=r"way.one@1 is an adapter with a gate, for which PEFT has no"):
        store.exchange.export_folder("way.one@1", tmp_path / "folder")
