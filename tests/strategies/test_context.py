"""What parts find in the context: what they remember, what they make once, the adapter at hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from strategies_tiny import Way

from contpeft.errors import UnsupportedError
from contpeft.spec import AdapterSpec, Parent
from contpeft.store import AdapterStore
from contpeft.strategies import Recipe, Slow, find_recipe


def test_what_is_remembered_is_a_line_of_versions(store: AdapterStore) -> None:
    way = Way(store, find_recipe("sequential"))
    first = way.context(0)
    assert first.recall("fisher") is None
    one = first.remember("fisher", {"f": torch.ones(3)}, {"rows": 8})
    assert (one.ref, one.kind, one.adapts, one.parents) == ("way.fisher@1", "memory", False, ())
    way.history += (one,)
    second = way.context(1)
    told = second.recall("fisher")
    assert told is not None
    assert told.config == {"part": "fisher", "rows": 8}
    assert torch.equal(told.tensors["f"], torch.ones(3))
    two = second.remember("fisher", {"f": 2 * torch.ones(3)}, {"rows": 16})
    assert (two.ref, two.parents) == ("way.fisher@2", (Parent("way.fisher@1", "continued"),))
    assert second.recall("other") is None


def test_what_was_remembered_in_the_same_task_is_recalled(store: AdapterStore) -> None:
    context = Way(store, Recipe()).context(0)
    context.registered += (context.remember("buffer", {"x": torch.zeros(1)}, {}),)
    assert context.recall("buffer") is not None


def test_memories_are_no_adapters(store: AdapterStore) -> None:
    way = Way(store, find_recipe("sequential"))
    way.learn(0)
    way.history += (way.context(0).remember("fisher", {"f": torch.ones(1)}, {}),)
    context = way.context(1)
    assert [version.ref for version in context.adapters] == ["way@1"]
    assert context.previous is not None
    assert context.previous[0].ref == "way@1"


def test_once_is_once_a_fit(store: AdapterStore) -> None:
    context, made = Way(store, Recipe()).context(0), []
    for _ in range(3):
        assert context.once("x", lambda: made.append(1) or "value") == "value"
    assert made == [1]


def test_own_parameters_are_the_adapters_alone(store: AdapterStore) -> None:
    way = Way(store, find_recipe("sequential"))
    context = way.started(0)
    context.adapted.train_only()
    trained = {name for name, p in way.module.named_parameters() if p.requires_grad}
    assert set(context.own_parameters) == {name for name in trained if not name.startswith("head")}
    assert any(name.startswith("head") for name in trained)


def test_factors_are_the_parameters_themselves(store: AdapterStore) -> None:
    way = Way(store, find_recipe("sequential"), spec=AdapterSpec("lora", r=2, alpha=6))
    context = way.started(0)
    factors = context.factors("this test")
    own = {id(p) for p in context.own_parameters.values()}
    assert {id(p) for f in factors.values() for p in (f.down, f.up)} == own
    for module, each in factors.items():
        linear = context.adapted.model.get_submodule(module)
        assert each.down.shape == (2, linear.in_features)
        assert each.up.shape == (linear.out_features, 2)
        assert each.scale == 3.0
        torch.testing.assert_close(each.delta(), 3.0 * each.up @ each.down)
    assert context.factors("again") is factors


def test_factors_of_other_methods_are_refused_by_name(store: AdapterStore) -> None:
    context = Way(store, Recipe(), spec=AdapterSpec("houlsby", reduction_factor=4)).started(0)
    with pytest.raises(
        UnsupportedError, match=r"^o-lora works on the factors of LoRA adapters, not on one of"
    ):
        context.factors("o-lora")


def test_the_tap_takes_what_the_head_reads_and_says(store: AdapterStore) -> None:
    way = Way(store, find_recipe("sequential"))
    context = way.started(0)
    batch = way.module.collate([(1, 2, 3, 4, 5, 6), (7, 8, 9, 10, 11, 12)])
    with context.listening():
        scores = way.module(batch)
    assert context.tap.scores is scores
    assert torch.equal(context.tap.features, way.module.encode(batch))
    way.module(way.module.collate([(1, 2, 3, 4, 5, 6)]))
    assert context.tap.scores is scores, "outside the block nothing is taken"


def test_heads_alone_are_registered_without_an_adapter(store: AdapterStore) -> None:
    way = Way(store, find_recipe("frozen-heads"))
    for step in range(2):
        way.learn(step)
    assert [(v.ref, v.kind, v.parameters) for v in way.history] == [
        ("way.one@1", "head", 0),
        ("way.two@1", "head", 0),
    ]
    first, second = (store.load(v.ref).head_tensors()["weight"] for v in way.history)
    assert torch.equal(second[:2], first), "the first task's rows stay as they were"


def test_a_slow_adapter_moves_by_the_factor(store: AdapterStore) -> None:
    moved = {}
    for factor in (0.0, 0.1, 1.0):
        way = Way(store, replace(find_recipe("sequential"), projection=Slow(factor)), line=f"slow-{factor}")
        context = way.started(0)
        start = {name: p.detach().clone() for name, p in context.own_parameters.items()}
        context.adapted.train_only()
        way.train(context, passes=1)
        moved[factor] = sum((p.detach() - start[n]).norm().item() for n, p in context.own_parameters.items())
    assert moved[0.0] == 0.0
    assert 0 < moved[0.1] < 0.3 * moved[1.0]
