"""What recipes with a penalty or an anchor keep: base, first task, resumption, what is remembered."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from strategies_tiny import TASKS, Way, learnt, same, training
from torch import Tensor

from contpeft.adapters import AdaptedModel
from contpeft.spec import AdapterState
from contpeft.store import AdapterStore
from contpeft.strategies import find_recipe
from contpeft.strategies.about import summary_of, told
from contpeft.strategies.recipes import ANCHORS, PENALTIES

NAMES = sorted({*PENALTIES, *ANCHORS})
PARENTS = {name: "incremental-sum-local" if name in PENALTIES else "sequential-local" for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_base_and_first_task_are_as_without_it(store: AdapterStore, name: str) -> None:
    """Two tasks; the base keeps its fingerprint, and the first version is that of the recipe's parent."""
    way = learnt(store, find_recipe(name), tasks=2)
    first = next(version for version in way.history if version.adapts)
    alone = learnt(store, find_recipe(PARENTS[name]), tasks=1, line="alone").history[0]
    assert first.fingerprint == alone.fingerprint
    assert dict(first.config) == dict(alone.config)
    way.module.model.train(False)
    AdaptedModel.of(way.module).detach()
    assert {version.base for version in way.history} == {AdaptedModel.of(way.module).verify_base()}


@pytest.mark.parametrize("name", NAMES)
def test_attaching_changes_no_answer(store: AdapterStore, name: str) -> None:
    """But for the directions of SD-LoRA, whose magnitudes start anew."""
    way = learnt(store, find_recipe(name), tasks=1)
    batch = way.module.collate(training("ab").inputs)
    with torch.no_grad():
        before = way.module.encode(batch)
        after = way.started(1).adapted.module.encode(batch)
    assert torch.allclose(before, after, atol=1e-6) is not name.startswith("sd-lora")


@pytest.mark.parametrize("name", NAMES)
def test_what_is_remembered_is_tensors_and_primitives(store: AdapterStore, name: str) -> None:
    way = learnt(store, find_recipe(name), tasks=2)
    for version in way.history:
        state = store.load(version.ref)
        assert isinstance(state, AdapterState)
        assert all(
            isinstance(each, Tensor) and bool(each.isfinite().all()) for each in state.tensors.values()
        )
        if version.kind == "memory":
            assert {type(fact) for fact in version.config.values()} <= {str, float, type(None)}


@pytest.mark.parametrize("name", NAMES)
def test_another_process_goes_on_as_this_one_would(store: AdapterStore, name: str) -> None:
    """The second task by a way that knows the first from the store alone, with a module of its own."""
    recipe = find_recipe(name)
    straight = learnt(store, recipe, tasks=2, line="straight")
    halves = learnt(store, recipe, tasks=1, line="halves")
    resumed = Way(store, recipe, line="halves", history=halves.history)
    resumed.learn(1)
    for one, other in zip(straight.history, resumed.history, strict=True):
        assert (one.kind, one.fingerprint) == (other.kind, other.fingerprint)


@pytest.mark.parametrize("name", NAMES)
def test_parts_tell_where_they_come_from(name: str) -> None:
    recipe = find_recipe(name)
    assert recipe.what.endswith(".")
    assert bool(recipe.paper) is (name != "incremental-sum-local")
    for kind in ("penalty", "projection", "consolidate"):
        for part in recipe.parts()[kind]:
            assert summary_of(type(part)).endswith((".", ")."))
            assert (
                type(part).__name__ in ("Freeze", "Then", "NoneType", "MeasureOverlap")
                or told(type(part)).paper
            )


def test_all_serve_every_scenario() -> None:
    for name in NAMES:
        for scenario in ("class-incremental", "domain-incremental", "task-incremental"):
            find_recipe(name).check_serves(scenario, name)


@pytest.mark.parametrize("name", NAMES)
def test_domains_with_the_same_labels_are_learnt(store: AdapterStore, name: str) -> None:
    """Every task has the labels of the first: nothing is masked, old classes are the new ones."""
    again: tuple[Any, ...] = (TASKS[0], type(TASKS[0])("again", TASKS[0].classes))

    class Domains(Way):
        def context(self, step: int, tasks: Any = again) -> Any:
            context = super().context(step, again)
            context.seen = ("a", "b")
            return context

    way = Domains(store, find_recipe(name))
    for step in (0, 1):
        way.learn(step, again)
    last = [version for version in way.history if version.adapts][-1]
    assert last.head.classes == ("a", "b")
    assert not same(store.load(last.ref).tensors, store.load(way.history[0].ref).tensors)
