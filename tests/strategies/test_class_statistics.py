"""Recipes whose classifier is class statistics: over which features, in which order, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from strategies_tiny import TASKS, Classifier, Way, examples, learnt, same, training

from contpeft.adapters import RidgeStatistics, StatisticsHead, SubspacePrototypes
from contpeft.errors import SpecError
from contpeft.spec import Base, Concat, Parent, Single
from contpeft.store import AdapterStore
from contpeft.strategies import GatherRidge, NoAdapter, Recipe, find_recipe
from contpeft.strategies.recipes import CLASS_STATISTICS

ONE = "way.one@1"


def small(name: str) -> Recipe:
    recipe = find_recipe(name)
    if isinstance(recipe.consolidate, GatherRidge):
        return replace(recipe, consolidate=replace(recipe.consolidate, width=32))
    return recipe


def through(way: Way, ref: str | None, inputs: list) -> np.ndarray:
    """Returns features of a stored adapter, or of the bare base, asked of the module itself."""
    context = way.context(0)
    part = Base() if ref is None else Single(ref)
    with context.adapted.applied(part, context.load), torch.no_grad():
        return way.module.encode(way.module.collate(inputs)).double().numpy()


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


@pytest.mark.parametrize("name", sorted(CLASS_STATISTICS))
def test_all_classes_are_told_apart(store: AdapterStore, name: str) -> None:
    way = learnt(store, small(name))
    inputs, labels = examples("abcdef", 8, seed=9)
    answered = way.answerer().predict(way.answers[2]["main"], inputs, "x")
    assert np.mean([a == b for a, b in zip(answered, labels, strict=True)]) > 0.7


@pytest.mark.parametrize("name", ["aper", "aper-lda", "ranpac"])
def test_an_adapter_is_trained_at_the_first_task_alone(store: AdapterStore, name: str) -> None:
    way = learnt(store, small(name))
    assert [version.ref for version in way.history if version.adapts] == [ONE]
    plain = learnt(store, find_recipe("isolated"), tasks=1, line="plain").history[0]
    assert way.history[0].fingerprint == plain.fingerprint  # the first task is plain LoRA
    statistics = [version for version in way.history if not version.adapts]
    assert statistics[1].parents == (Parent(statistics[0].ref, "continued"), Parent(ONE, "frozen"))
    assert all(set(answers) == {"main"} for answers in way.answers)


def test_aper_answers_by_both_features_side_by_side(store: AdapterStore) -> None:
    way = learnt(store, find_recipe("aper"))
    answer = way.answers[2]["main"]
    assert answer == Concat((Single(ONE), Base()), "way.class-means-first-and-base@3")
    rows, labels = [], []
    for task in TASKS:
        data = training(task.classes)
        rows += list(np.concatenate([through(way, ONE, data.inputs), through(way, None, data.inputs)], 1))
        labels += data.labels
    means = np.stack([unit(np.array(rows))[np.array(labels) == each].mean(0) for each in "abcdef"])
    inputs, _ = examples("abcdef", 5, seed=3)
    asked = unit(np.concatenate([through(way, ONE, inputs), through(way, None, inputs)], 1))
    found, classes = way.answerer().scores(answer, inputs, "x")
    assert classes == tuple("abcdef")
    np.testing.assert_allclose(found.numpy(), asked @ unit(means).T, atol=1e-5)


@pytest.mark.parametrize("name", ["ncm", "ranpac-frozen"])
def test_the_order_of_tasks_does_not_matter(store: AdapterStore, name: str) -> None:
    inputs, _ = examples("abcdef", 5, seed=3)
    scores = []
    for line, order in {"there": TASKS, "back": TASKS[::-1]}.items():
        way = Way(store, small(name), line=line)
        for step in range(3):
            way.learn(step, order)
        found, classes = way.answerer().scores(way.answers[2]["main"], inputs, "x")
        scores.append(found[:, [classes.index(label) for label in "abcdef"]])
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-5, atol=1e-8)


def test_the_penalty_is_of_all_tasks_of_the_last_one_or_fixed(store: AdapterStore) -> None:
    recipe = small("ranpac-frozen")
    assert isinstance(recipe.consolidate, GatherRidge)
    used = {}
    for line, penalty in {"all": "gcv", "last": "held-out", "fixed": 7.0}.items():
        way = learnt(
            store,
            replace(recipe, consolidate=replace(recipe.consolidate, penalty=penalty, width=300)),
            line=line,
        )
        head = way.history[-1].head
        assert head is not None
        used[penalty] = head.options["penalty"]
    sums = RidgeStatistics(300, seed=0)
    for group, task in enumerate(TASKS):
        data = training(task.classes)
        rows = torch.from_numpy(through(way, None, data.inputs))
        sums.update(rows, data.labels, group)
    held_out = sums.held_out_penalty(rows, data.labels)
    assert used == {"gcv": sums.gcv_penalty(), "held-out": held_out, 7.0: 7.0}
    assert used["gcv"] != held_out


@pytest.mark.parametrize("name", ["aper", "ranpac", "ease"])
def test_a_new_process_registers_the_same(store: AdapterStore, name: str) -> None:
    straight, resumed = learnt(store, small(name), line="straight"), Way(store, small(name), line="resumed")
    for step in range(3):
        resumed.module = Classifier()
        resumed.learn(step)
    assert [v.fingerprint for v in straight.history] == [v.fingerprint for v in resumed.history]


def test_statistics_answer_with_their_own_features_alone(store: AdapterStore) -> None:
    way = learnt(store, find_recipe("aper"), tasks=2)
    learnt(store, find_recipe("isolated"), tasks=1, line="other")
    head, (inputs, _) = "way.class-means-first-and-base@2", examples("ab", 2, seed=3)
    said = rf"^{head} holds class statistics of the features of {ONE} and base, not of "
    for wrong, those in {
        Single(head): "base",
        Single(ONE, head): ONE,
        Concat((Base(), Single(ONE)), head): f"base and {ONE}",
        Concat((Single("other.one@1"), Base()), head): "other.one@1 and base",
    }.items():
        with pytest.raises(SpecError, match=f"{said}{those}; compose it with what it was gathered over$"):
            way.answerer().predict(wrong, inputs, "x")
    with pytest.raises(SpecError, match=r"^other\.one@1 holds no class statistics; it cannot infer a class"):
        way.answerer().predict(Concat((Base(),), "other.one@1"), inputs, "x")


def test_statistics_over_an_adapter_need_one(store: AdapterStore) -> None:
    recipe = replace(find_recipe("aper"), init=NoAdapter())
    with pytest.raises(SpecError, match=r"^statistics over 'first\+base' need a task's adapter"):
        Way(store, recipe).learn(0)


def test_features_are_computed_once(store: AdapterStore) -> None:
    way = learnt(store, find_recipe("ease"), tasks=2)
    context, (inputs, _) = way.context(0), examples("ab", 2, seed=3)
    parts = (Single("way.one@1"), Single("way.two@1"))
    first = context.features.through(parts, context.load, inputs, "those")
    way.module.encode = None  # nothing may ask it again
    assert torch.equal(context.features.through(parts, context.load, inputs, "those"), first)


class TestSubspaces:
    def test_old_classes_get_prototypes_in_new_subspaces(self) -> None:
        generator = torch.Generator().manual_seed(0)
        first, second = torch.randn(6, 4, generator=generator), torch.randn(9, 8, generator=generator)
        prototypes = SubspacePrototypes()
        prototypes.update(first, list("aabbab"), 0)
        prototypes.update(second, list("cdecdecde"), 1)
        old = unit(first.double().numpy())
        own = np.stack([old[[0, 1, 4]].mean(0), old[[2, 3, 5]].mean(0)])
        blocks = unit(second.double().numpy().reshape(9, 2, 4))
        new = np.stack([blocks[start::3].mean(0) for start in range(3)])
        alike = np.exp(unit(own) @ unit(new[:, 0]).T)
        synthesised = alike / alike.sum(1, keepdims=True) @ new[:, 1]
        expected = np.concatenate([np.stack([own, synthesised], 1), new])
        np.testing.assert_allclose(prototypes.prototypes.numpy(), expected, rtol=1e-10)
        assert (prototypes.labels, prototypes.groups) == (list("abcde"), [0, 0, 1, 1, 1])
        asked = torch.randn(5, 8, generator=generator)
        found = StatisticsHead(prototypes.spec(0.1, []), prototypes.tensors())(asked).numpy()
        cosines = np.einsum("btd,ctd->bct", unit(asked.double().numpy().reshape(5, 2, 4)), unit(expected))
        counts = np.where(np.eye(2)[prototypes.groups] == 1, 1.0, 0.1)
        np.testing.assert_allclose(found, (cosines * counts).sum(2), rtol=1e-10)

    def test_what_is_known_of_old_subspaces_stays(self) -> None:
        prototypes = SubspacePrototypes()
        prototypes.update(torch.randn(6, 4), list("aabbab"), 0)
        before = prototypes.tensors()["prototypes"]
        prototypes.update(torch.randn(4, 8), list("cdcd"), 1)
        assert torch.equal(prototypes.prototypes[:2, :1], before)

    def test_tasks_come_one_after_another(self) -> None:
        with pytest.raises(
            SpecError, match=r"^task 1 brings features of 2 adapters one after another; there a"
        ):
            SubspacePrototypes().update(torch.randn(4, 8), list("abab"), 1)

    def test_ease_reads_every_adapter(self, store: AdapterStore) -> None:
        way = learnt(store, find_recipe("ease"))
        own = tuple(Single(f"way.{task.name}@1") for task in TASKS)
        assert way.answers[2]["main"] == Concat(own, "way.subspaces@3")
        assert same(
            store.load(ONE).tensors,
            learnt(store, find_recipe("isolated"), 1, line="i").store.load("i.one@1").tensors,
        )
