"""Recipes: what each named one does at every task, and the hooks that carry its parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from strategies_tiny import TASKS, Way, examples, learnt, same
from torch import Tensor

from contpeft.errors import NotFoundError, UnsupportedError
from contpeft.spec import AdapterSpec, Parent, Route, Single, Stack, Sum
from contpeft.store import AdapterStore
from contpeft.strategies import (
    RECIPES,
    Context,
    Cosine,
    FromLast,
    Linear,
    NoAdapter,
    Own,
    Recipe,
    find_recipe,
)
from contpeft.strategies.recipes import BOUNDS, ISOLATION


def test_recipes_are_found_by_name() -> None:
    assert {"frozen", "sequential", "isolated", "incremental-sum", "joint"} < set(RECIPES)
    assert {"sequential-linear", "isolated-linear", "joint-linear"} < set(RECIPES)
    assert all(find_recipe(name) is recipe for name, recipe in RECIPES.items())
    with pytest.raises(NotFoundError, match=r"^no strategy 'sequental'; did you mean 'sequential'\?$"):
        find_recipe("sequental")


@pytest.mark.parametrize("head", ["", "-linear"])
def test_with_one_task_sequential_isolated_and_joint_are_one(store: AdapterStore, head: str) -> None:
    first = [
        learnt(store, find_recipe(name + head), tasks=1, line=name).history[0]
        for name in ("sequential", "isolated", "joint")
    ]
    assert len({version.fingerprint for version in first}) == 1
    assert len({str(dict(version.config)) for version in first}) == 1
    assert [version.name for version in first] == ["sequential", "isolated.one", "joint.one"]


def test_frozen_trains_nothing_and_answers_by_both_rules(store: AdapterStore) -> None:
    way = learnt(store, find_recipe("frozen"))
    assert [version.ref for version in way.history] == [
        f"way.{rule}@{n}" for n in (1, 2, 3) for rule in ("class-means", "lda")
    ]
    assert {version.kind for version in way.history} == {"statistics"}
    assert way.answers[2] == {"class-means": Single("way.class-means@3"), "lda": Single("way.lda@3")}
    assert not way.context(0).adapted.active


def test_sequential_trains_one_adapter_on_and_on(store: AdapterStore) -> None:
    way = learnt(store, find_recipe("sequential"))
    assert [version.ref for version in way.history] == ["way@1", "way@2", "way@3"]
    assert [version.parents for version in way.history] == [
        (),
        (Parent("way@1", "continued"),),
        (Parent("way@2", "continued"),),
    ]
    assert [answer for answer in way.answers] == [{"main": Single(f"way@{n}")} for n in (1, 2, 3)]
    assert way.history[2].head.classes == tuple("abcdef")


def test_an_incremental_sum_learns_over_what_stays_as_it_is(store: AdapterStore) -> None:
    way = learnt(store, find_recipe("incremental-sum"), tasks=2)
    before = {version.ref: store.load(version.ref).tensors for version in way.history}
    way.learn(2)
    own = [f"way.{name}@1" for name in ("one", "two", "three")]
    assert [version.ref for version in way.history] == own
    assert [version.parents for version in way.history] == [
        tuple(Parent(ref, "frozen") for ref in own[:n]) for n in range(3)
    ]
    assert all(same(store.load(ref).tensors, tensors) for ref, tensors in before.items())
    assert way.answers == [{"main": Sum(tuple((ref, 1.0) for ref in own[:n]), own[n - 1])} for n in (1, 2, 3)]
    context = way.context(2)
    inputs, trained = [tuple(range(i, i + 6)) for i in range(20)], way.module
    with torch.no_grad():
        told = trained(trained.collate(inputs))
    with context.adapted.applied(way.answers[2]["main"], context.load):
        torch.testing.assert_close(context.features.scores(inputs), told, rtol=1e-4, atol=1e-4)


def test_what_is_no_lora_is_stacked(store: AdapterStore) -> None:
    way = Way(store, find_recipe("incremental-sum"), spec=AdapterSpec("houlsby", reduction_factor=4))
    way.learn(0)
    way.learn(1)
    assert way.answers[1] == {"main": Stack((Single("way.one@1"), Single("way.two@1")))}
    inputs, labels = examples("cd", 6, seed=3)
    answered = way.answerer().predict(way.answers[1]["main"], inputs, "x", among=("c", "d"))
    assert sum(map(str.__eq__, answered, labels)) >= 9


def test_isolated_gives_every_task_its_own_and_routes(store: AdapterStore) -> None:
    way = learnt(store, find_recipe("isolated"))
    own = [f"way.{name}@1" for name in ("one", "two", "three")]
    assert [version.ref for version in way.history] == [
        *(own[0], "way.lda@1"),
        *(own[1], "way.lda@2"),
        *(own[2], "way.lda@3"),
    ]
    assert [version.parents for version in way.history if version.kind == "lora"] == [(), (), ()]
    assert way.answers == [
        {"main": Route(f"way.lda@{n}", tuple(Single(ref) for ref in own[:n]))} for n in (1, 2, 3)
    ]
    assert [version.head.classes for version in way.history[::2]] == [task.classes for task in TASKS]


def test_isolated_adapters_keep_every_bit(store: AdapterStore) -> None:
    way = learnt(store, find_recipe("isolated"), tasks=1)
    answerer = way.answerer()
    before = store.load("way.one@1").tensors
    inputs = [tuple(range(i, i + 6)) for i in range(20)]

    def scores() -> Tensor:
        context = way.context(0)
        with context.adapted.applied(Single("way.one@1"), context.load):
            return context.features.scores(inputs)

    at_first = scores()
    way.learn(1)
    way.learn(2)
    assert torch.equal(scores(), at_first)
    assert same(store.load("way.one@1").tensors, before)
    assert answerer.predict(Single("way.one@1"), inputs, "x") == [
        "ab"[i] for i in at_first.argmax(1).tolist()
    ]


@pytest.mark.parametrize(
    "name", sorted({*BOUNDS, *ISOLATION} - {"frozen", "frozen-layers", "frozen-heads-linear"})
)
def test_what_a_recipe_trains_is_answered_right(store: AdapterStore, name: str) -> None:
    way = learnt(store, find_recipe(name), tasks=2)
    data = way.context(1).training_data("this test")
    answered = way.answerer().predict(way.answers[1]["main"], data.inputs, data.digest)
    assert sum(a == b for a, b in zip(answered, data.labels, strict=True)) >= 0.85 * len(answered)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("sequential", "a cosine head that starts at class means"),
        ("isolated", "a cosine head that starts at class means"),
        ("joint-linear", "a linear head"),
        ("frozen", "gathering class statistics"),
    ],
)
def test_a_recipe_without_the_data_it_needs_says_which_part_does(
    store: AdapterStore, name: str, part: str
) -> None:
    way = Way(store, find_recipe(name), data=False)
    with pytest.raises(
        UnsupportedError, match=rf"^{part} needs the task's training examples; pass data=Train"
    ):
        way.learn(0)
    assert store.names() == []


def test_the_default_recipe_needs_no_data(store: AdapterStore) -> None:
    way = Way(store, Recipe(), data=False, line="")
    (version,) = way.learn(0)
    assert (version.ref, version.head.kind, version.head.classes) == ("one@1", "own", ("a", "b"))
    assert way.answers == [{"main": Single("one@1")}]


# --- parts of one's own ---------------------------------------------------------------------------


@dataclass(frozen=True)
class StayClose:
    """Pulls the trainable parameters towards zero."""

    weight: float

    def loss(self, context: Context, batch: Any, outputs: Any) -> Tensor:
        assert batch["labels"].shape == (8,)
        assert outputs.shape == ()
        squares = [(p**2).sum() for p in context.adapted.module.parameters() if p.requires_grad]
        return self.weight * torch.stack(squares).sum()


@dataclass(frozen=True)
class Shorten:
    """Applies a part of each update."""

    part: float

    def project(self, context: Context, before: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in context.adapted.module.named_parameters():
                if name in before:
                    parameter.copy_(before[name] + self.part * (parameter - before[name]))


def tensors(store: AdapterStore, recipe: Recipe, line: str) -> dict[str, Tensor]:
    learnt(store, recipe, tasks=2, line=line)
    return store.load(f"{line}@2").tensors


def test_a_penalty_of_weight_zero_is_no_penalty(store: AdapterStore) -> None:
    plain = find_recipe("sequential")
    without = tensors(store, plain, "without")
    assert same(tensors(store, replace(plain, penalty=StayClose(0.0)), "zero"), without)
    pulled = tensors(store, replace(plain, penalty=StayClose(0.5)), "pulled")
    size = sum(float((tensor**2).sum()) for tensor in without.values())
    assert sum(float((tensor**2).sum()) for tensor in pulled.values()) < 0.9 * size


def test_a_projection_corrects_the_applied_update(store: AdapterStore) -> None:
    plain = find_recipe("sequential")
    stopped = replace(plain, projection=Shorten(0.0))
    way = Way(store, stopped, line="stopped")
    context = way.started(0)
    before = context.adapted.state().tensors
    way.train(context)
    assert same(context.adapted.state().tensors, before)
    halved = tensors(store, replace(plain, projection=Shorten(0.5)), "halved")
    assert not same(halved, tensors(store, plain, "whole"))


def test_a_recipe_without_them_adds_and_corrects_nothing(store: AdapterStore) -> None:
    way = Way(store, Recipe())
    context = way.context(0)
    assert Recipe().loss(context, None, None) is None
    assert Recipe().project(context, {}) is None


def test_parts_are_values(store: AdapterStore) -> None:
    assert replace(find_recipe("sequential"), head=Linear(grow=True)) == find_recipe("sequential-linear")
    assert Recipe(init=FromLast(), head=Cosine(grow=True)) == find_recipe("sequential")
    assert (NoAdapter().trains(0), FromLast().trains(0), Own() == Own()) == (False, True, True)
