"""Recipes of AdapterFusion: two stages a task, the first one's adapters untouched by the second."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from strategies_tiny import TASKS, Classifier, Way, examples, learnt, same

from contpeft.adapters import AdaptedModel
from contpeft.adapters.fusion import FusionAttachment, FusionOptions
from contpeft.callbacks import ContinualAdapter
from contpeft.errors import UnsupportedError
from contpeft.spec import Parallel, Parent, Single
from contpeft.store import AdapterStore
from contpeft.strategies import Fresh, find_recipe, task_choice
from contpeft.strategies.init import FuseAll

NAMES = ("fusion-per-task", "fusion-task-agnostic")
OWN = ("way.one@1", "way.two@1", "way.three@1")


def frozen(*refs: str) -> tuple[Parent, ...]:
    return tuple(Parent(ref, "frozen") for ref in refs)


def test_each_task_has_a_fusion_over_all_adapters_so_far(store: AdapterStore) -> None:
    way = learnt(store, find_recipe("fusion-per-task"))
    told = {version.ref: version.parents for version in way.history}
    assert told == {
        **{OWN[0]: (), OWN[1]: (), "way.two-fusion@1": frozen(*OWN[:2])},
        **{OWN[2]: (), "way.three-fusion@1": frozen(*OWN)},
    }
    fused = Single("way.two-fusion@1")
    assert way.answers == [
        {"main": Parallel((Single(OWN[0]),))},
        {"main": Parallel((Single(OWN[0]), fused))},
        {"main": Parallel((Single(OWN[0]), fused, Single("way.three-fusion@1")))},
    ]
    assert [v.head.classes for v in way.history if v.kind == "fusion"] == [t.classes for t in TASKS[1:]]


def test_one_fusion_goes_on_over_more_adapters(store: AdapterStore) -> None:
    way = learnt(store, find_recipe("fusion-task-agnostic"))
    told = {version.ref: version.parents for version in way.history if version.kind == "fusion"}
    assert told == {
        "way.fusion@1": frozen(*OWN[:2]),
        "way.fusion@2": (*frozen(*OWN), Parent("way.fusion@1", "continued")),
    }
    assert way.answers == [{"main": Single(ref)} for ref in (OWN[0], "way.fusion@1", "way.fusion@2")]
    assert store.show("way.fusion@2").head.classes == tuple("abcdef")


def test_a_fusion_that_goes_on_starts_at_the_last_ones_weights(store: AdapterStore) -> None:
    way = learnt(store, find_recipe("fusion-task-agnostic"), tasks=2)
    context = way.context(2)
    learnt(store, replace(find_recipe("fusion-task-agnostic"), after=None), tasks=3, line="other")
    context.history = (*way.history, store.show("other.three@1"))
    for one in (True, False):
        context.adapted.detach()
        FuseAll(one=one).start(context)
        started = context.adapted.attachment
        assert isinstance(started, FusionAttachment)
        assert same(started.tensors(), store.load("way.fusion@1").adapter_tensors()) == one


@pytest.mark.parametrize("name", NAMES)
def test_the_second_stage_leaves_adapters_and_base_as_they_are(store: AdapterStore, name: str) -> None:
    recipe = find_recipe(name)
    way = learnt(store, recipe, tasks=2)
    alone = learnt(store, replace(recipe, after=None), line="alone")
    assert AdaptedModel.of(way.module).verify_base() == AdaptedModel.of(Classifier()).base
    shared = ("one", "two") if name == "fusion-per-task" else ("one",)  # heads are passed on by the other
    for task in shared:
        assert same(
            store.load(f"way.{task}@1").adapter_tensors(), store.load(f"alone.{task}@1").adapter_tensors()
        )
    members = {ref: store.load(ref).tensors for ref in OWN[:2]}
    way.learn(2)
    assert all(same(store.load(ref).tensors, tensors) for ref, tensors in members.items())
    assert [version.kind for version in alone.history] == ["lora"] * 3


@pytest.mark.parametrize("name", NAMES)
def test_what_is_fused_answers_right_where_the_task_is_known(store: AdapterStore, name: str) -> None:
    way = learnt(store, find_recipe(name))
    for step, task in enumerate(TASKS):
        inputs, labels = examples(task.classes, 12, seed=9)
        known = task_choice(way.answers[2]["main"], step)
        answered = way.answerer().predict(known, inputs, task.name, among=task.classes)
        assert sum(map(str.__eq__, answered, labels)) >= 20


def test_fusions_of_earlier_tasks_answer_bit_for_bit_as_they_did(store: AdapterStore) -> None:
    way = learnt(store, find_recipe("fusion-per-task"), tasks=2)
    inputs = [tuple(range(i, i + 6)) for i in range(20)]

    def scores() -> torch.Tensor:
        context = way.context(1)
        return (
            way.answerer().scores(Single("way.two-fusion@1"), inputs, "x")[0] if context else torch.empty(0)
        )

    before = scores()
    way.learn(2)
    assert torch.equal(scores(), before)


def test_every_token_shares_itself_out_among_all_adapters(store: AdapterStore) -> None:
    way = learnt(store, find_recipe("fusion-task-agnostic"))
    context = way.context(2)
    with context.adapted.applied(Single("way.fusion@2"), context.load):
        fusion = context.adapted.attachment
        assert isinstance(fusion, FusionAttachment)
        fusion.watch()
        context.features.scores([tuple(range(6))])
        weights = torch.stack(list(fusion.attention().values()))
    assert weights.shape == (4, 1, 6, 3)
    assert weights.min() >= 0
    torch.testing.assert_close(weights.sum(-1), torch.ones(4, 1, 6))


def test_a_regulariser_that_is_off_is_none(store: AdapterStore) -> None:
    recipe = find_recipe("fusion-per-task")
    off = replace(recipe.after, init=FuseAll(options=FusionOptions(regularization=False)))
    for line, stage in (("off", off), ("none", replace(off, penalty=None)), ("on", recipe.after)):
        learnt(store, replace(recipe, after=stage), tasks=2, line=line)
    off_tensors, none, on = (store.load(f"{line}.two-fusion@1").tensors for line in ("off", "none", "on"))
    assert same(off_tensors, none)
    assert not same(on, none)


@pytest.mark.parametrize("name", NAMES)
def test_with_one_task_there_is_nothing_to_fuse(store: AdapterStore, name: str) -> None:
    way, plain = (learnt(store, find_recipe(each), tasks=1, line=each) for each in (name, "sequential"))
    assert [version.kind for version in way.history] == ["lora"]
    assert same(store.load(f"{name}.one@1").tensors, store.load("sequential@1").tensors)
    assert plain.history[0].fingerprint == way.history[0].fingerprint


def test_a_killed_task_ends_as_a_straight_one(store: AdapterStore) -> None:
    straight = learnt(store, find_recipe("fusion-task-agnostic"), line="straight")
    known = [version.ref for version in straight.history]
    again = Way(store, find_recipe("fusion-task-agnostic"), line="straight", history=straight.history[:3])
    again.learn(2)  # as after a kill between the stages: its first stage's version is there
    assert [version.ref for version in again.history] == known


def test_stages_are_recipes_one_after_the_other() -> None:
    recipe = find_recipe("fusion-per-task")
    assert recipe.stages(0) == (replace(recipe, after=None),)
    assert recipe.stages(1) == (replace(recipe, after=None), recipe.after)
    assert find_recipe("sequential").stages(3) == (find_recipe("sequential"),)
    assert recipe.parts()["init"] == (Fresh(), FuseAll(), FuseAll().options)
    assert recipe.needs() == {"examples", "features", "task id"}


def test_one_fit_is_not_two_stages(store: AdapterStore) -> None:
    with pytest.raises(UnsupportedError, match="trains in two stages and a fit is one of them; run it with"):
        ContinualAdapter(store, "billing", recipe="fusion-per-task")


def test_per_task_fusions_need_the_task(store: AdapterStore) -> None:
    with pytest.raises(UnsupportedError, match=r"it serves task-incremental$"):
        find_recipe("fusion-per-task").check_serves("class-incremental", "fusion-per-task")
    find_recipe("fusion-task-agnostic").check_serves("class-incremental", "fusion-task-agnostic")
