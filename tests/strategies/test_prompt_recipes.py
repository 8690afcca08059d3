"""Prompt recipes: what each trains, keeps and answers with over three tasks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from strategies_tiny import TASKS, Classifier, Way, examples, learnt, same
from torch import Tensor

from contpeft.adapters import AdaptedModel
from contpeft.adapters.pools import BankOptions, PoolAttachment
from contpeft.errors import SpecError, UnsupportedError
from contpeft.spec import Parallel, Parent, Single
from contpeft.store import AdapterStore
from contpeft.strategies import find_recipe, task_choice
from contpeft.strategies.init import Pooled
from contpeft.strategies.penalty import NearKeys, OrthogonalComponents
from contpeft.strategies.recipes import PROMPTS

NAMES = sorted(PROMPTS)
SENTENCES = [tuple(range(i, i + 6)) for i in range(20)]


def scores(way: Way, ref: str) -> Tensor:
    context = way.context(0)
    with context.adapted.applied(Single(ref), context.load):
        return context.features.scores(SENTENCES)


@pytest.mark.parametrize("name", NAMES)
def test_one_pool_goes_from_task_to_task(store: AdapterStore, name: str) -> None:
    way = learnt(store, find_recipe(name))
    base = AdaptedModel.of(Classifier()).base
    assert [version.ref for version in way.history] == ["way@1", "way@2", "way@3"]
    assert [version.kind for version in way.history] == ["prompt_pool"] * 3
    assert [version.parents for version in way.history[1:]] == [
        (Parent("way@1", "continued"),),
        (Parent("way@2", "continued"),),
    ]
    assert {version.base for version in way.history} == {base}
    assert AdaptedModel.of(way.module).verify_base() == base
    for step, task in enumerate(TASKS):
        inputs, labels = examples(task.classes, 12, seed=9)
        known = task_choice(way.answers[2]["main"], step)
        answered = way.answerer().predict(known, inputs, task.name, among=task.classes)
        assert sum(map(str.__eq__, answered, labels)) >= 20


@pytest.mark.parametrize("name", NAMES)
def test_components_of_earlier_tasks_and_their_head_rows_are_kept_bit_for_bit(
    store: AdapterStore, name: str
) -> None:
    learnt(store, find_recipe(name))
    first, last = store.load("way@2"), store.load("way@3")
    for number, bank in enumerate(last.config["banks"]):
        for tensor in ("components", "keys", "attention"):
            if f"{number}.{tensor}" in last.tensors:
                before, after = (each.tensors[f"{number}.{tensor}"] for each in (first, last))
                assert len(after) - len(before) == (bank["components"] if bank["grows"] else 0)
                assert torch.equal(after[: len(before)], before) == bank["grows"]
    assert last.head is not None
    assert last.head.classes == tuple("abcdef")
    assert torch.equal(last.tensors["head.weight"][:4], first.tensors["head.weight"])


def test_new_components_start_at_right_angles_to_trained_ones(store: AdapterStore) -> None:
    way = learnt(store, find_recipe("coda-prompt"), tasks=2)
    way.started(2)
    started: Any = AdaptedModel.of(way.module).attachment
    for rows in started.tensors().values():
        rows = rows.flatten(1).double()
        old, new = torch.nn.functional.normalize(rows[:10], dim=1), rows[10:]
        assert (new @ old.T).abs().max() < 1e-5
        torch.testing.assert_close(new @ new.T, torch.eye(5, dtype=torch.float64), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["coda-prompt-orthogonal", "l2p", "dualprompt"])
def test_a_penalty_of_weight_zero_is_none(store: AdapterStore, name: str) -> None:
    recipe = find_recipe(name)
    assert recipe.penalty is not None
    told = [
        learnt(store, replace(recipe, penalty=each), tasks=2, line=line)
        for line, each in (
            ("none", None),
            ("zero", replace(recipe.penalty, weight=0.0)),
            ("whole", recipe.penalty),
        )
    ]
    none, zero, whole = (store.load(f"{way.line}@2").tensors for way in told)
    assert same(none, zero)
    assert not same(none, whole)


def test_a_way_is_the_same_twice_and_goes_on_from_the_store(store: AdapterStore) -> None:
    straight = learnt(store, find_recipe("dualprompt"), line="straight")
    begun = learnt(store, find_recipe("dualprompt"), tasks=2, line="begun")
    resumed = Way(store, find_recipe("dualprompt"), line="begun", history=begun.history)
    resumed.learn(2)
    assert same(store.load("straight@3").tensors, store.load("begun@3").tensors)
    assert [v.fingerprint for v in straight.history] == [v.fingerprint for v in resumed.history]


def test_keys_are_pulled_to_the_queries_that_pick_them(store: AdapterStore) -> None:
    way = learnt(store, find_recipe("dualprompt"), tasks=2)
    context = way.context(0)
    context.adapted.detach()
    keys = {}
    for weight in (0.0, 1.0):
        pulled = replace(find_recipe("dualprompt"), penalty=NearKeys(weight))
        learnt(store, pulled, tasks=1, line=f"pulled{weight:g}")
        keys[weight] = store.load(f"pulled{weight:g}@1").tensors["1.keys"]
    inputs, _ = examples("ab", 12, seed=5)
    features = context.features.base(inputs, "some")  # the mean over tokens, as the query is
    near = {w: torch.cosine_similarity(features, each).mean().item() for w, each in keys.items()}
    assert near[1.0] > near[0.0] + 0.1


def test_a_pool_is_no_adapter_of_pefts(store: AdapterStore, tmp_path: Path) -> None:
    learnt(store, find_recipe("l2p"), tasks=1)
    with pytest.raises(
        UnsupportedError, match=r"^way@1 is of kind 'prompt_pool' and holds no adapter that PEFT"
    ):
        store.exchange.export_folder("way@1", tmp_path / "folder")


def test_each_task_answers_through_the_prompts_it_had(store: AdapterStore) -> None:
    way = learnt(store, find_recipe("progressive-prompts"), tasks=1)
    before = scores(way, "way@1")
    way.learn(1)
    way.learn(2)
    assert torch.equal(scores(way, "way@1"), before)
    assert way.answers[2] == {"main": Parallel((Single("way@1"), Single("way@2"), Single("way@3")))}
    assert [len(store.load(f"way@{n}").tensors["0.components"]) for n in (1, 2, 3)] == [1, 2, 3]


def test_progressive_prompts_need_the_task(store: AdapterStore) -> None:
    recipe = find_recipe("progressive-prompts")
    recipe.check_serves("task-incremental", "progressive-prompts")
    with pytest.raises(
        UnsupportedError, match="'progressive-prompts' cannot serve a class-incremental stream"
    ):
        recipe.check_serves("class-incremental", "progressive-prompts")
    assert "task id" in recipe.needs()


@pytest.mark.parametrize(
    ("part", "what"),
    [(NearKeys(), "pulling keys to queries"), (OrthogonalComponents(), "keeping components at right angles")],
)
def test_parts_of_pools_say_that_there_is_none(store: AdapterStore, part: Any, what: str) -> None:
    way = Way(store, replace(find_recipe("sequential"), penalty=part))
    with pytest.raises(
        UnsupportedError, match=f"^{what} works on pools of prompts, an adapter of method 'lora'"
    ):
        way.learn(0)


def test_another_pool_does_not_go_on_under_the_same_name(store: AdapterStore) -> None:
    begun = learnt(store, find_recipe("l2p"), tasks=1)
    for recipe, history in (
        ("dualprompt", begun.history),
        ("coda-prompt", learnt(store, find_recipe("sequential"), tasks=1, line="way").history),
    ):
        way = Way(store, find_recipe(recipe), history=history)
        with pytest.raises(
            SpecError, match="is not the pool that this recipe makes; keep one recipe under one"
        ):
            way.learn(1)


def test_a_recipe_of_ones_own_mixes_banks(store: AdapterStore) -> None:
    banks = (
        BankOptions("all", layers=(0, 6), length=1, components=1),
        BankOptions("attended", length=1, components=2),
    )
    way = learnt(store, replace(find_recipe("coda-prompt"), init=Pooled(banks)), tasks=2)
    pool = way.context(1).adapted.attachment
    assert isinstance(pool, PoolAttachment)
    assert [len(store.load("way@2").tensors[f"{n}.components"]) for n in (0, 1)] == [2, 4]
