"""How adapters and heads start, and what is kept once a task is learnt."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from strategies_tiny import TASKS, WIDTH, Classifier, Way, learnt, same, training
from torch import nn

from contpeft.adapters import AdaptedModel, CosineHead, LinearHead
from contpeft.errors import BaseMismatchError, SpecError, UnsupportedError
from contpeft.spec import Parent, Task
from contpeft.store import AdapterStore
from contpeft.strategies import (
    Cosine,
    Fresh,
    FromLast,
    GatherStatistics,
    Linear,
    NoAdapter,
    Own,
    Recipe,
    find_recipe,
)


class TestInit:
    def test_fresh_ones_are_named_after_line_and_task(self, store: AdapterStore) -> None:
        context = Way(store, Recipe(), line="run.way").context(0)
        assert Fresh().name(context) == "run.way.one"
        assert Fresh().start(context) == ()
        assert context.adapted.active
        assert Fresh().name(Way(store, Recipe(), line="").context(0)) == "one"

    def test_the_last_version_is_loaded_exactly(self, store: AdapterStore) -> None:
        way = learnt(store, find_recipe("sequential"), tasks=1)
        way.module = Classifier()
        context = way.context(1)
        assert FromLast().start(context) == (Parent("way@1", "continued"),)
        assert same(context.adapted.attachment.tensors(), store.load("way@1").adapter_tensors())
        assert FromLast().name(context) == "way"
        assert FromLast().name(Way(store, Recipe(), line="").context(0)) == "one"

    def test_the_first_is_a_fresh_one(self, store: AdapterStore) -> None:
        context = Way(store, Recipe()).context(0)
        assert FromLast().start(context) == ()
        assert context.adapted.state().kind == "lora"

    def test_another_base_is_refused_before_anything_is_attached(self, store: AdapterStore) -> None:
        way = learnt(store, find_recipe("sequential"), tasks=1)
        way.module = Classifier(seed=1)
        context = way.context(1)
        with pytest.raises(BaseMismatchError, match="way@1 was trained on 'BertModel'"):
            FromLast().start(context)
        assert not context.adapted.active

    def test_none_is_none(self, store: AdapterStore) -> None:
        context = Way(store, Recipe()).context(0)
        assert NoAdapter().start(context) == ()
        assert not context.adapted.active
        assert NoAdapter().name(context) == "way"

    def test_class_statistics_are_not_continued(self, store: AdapterStore) -> None:
        way = learnt(store, find_recipe("isolated"), tasks=2)
        context = way.context(2)
        version, state = context.previous
        assert version.ref == "way.two@1"
        assert same(dict(state.tensors), dict(store.load("way.two@1").tensors))


class TestCosine:
    def test_rows_start_at_class_means_of_the_model_as_it_stands(self, store: AdapterStore) -> None:
        way = learnt(store, Recipe(init=FromLast(), head=Cosine(grow=True, scale=7.0)), tasks=1)
        context = way.started(1)
        head = context.adapted.head
        assert isinstance(head, CosineHead)
        assert (head.classes, head.scale) == (("a", "b", "c", "d"), 7.0)
        # The kept rows, bit for bit; the new ones from features through the adapter of the task before.
        assert torch.equal(head.weight[:2], store.load("way@1").head_tensors()["weight"])
        data = training("cd")
        with torch.no_grad():
            features = context.adapted.module.encode(context.adapted.module.collate(data.inputs)).numpy()
        units = features / np.linalg.norm(features, axis=1, keepdims=True)
        for row, label in zip(head.weight[2:].detach().numpy(), "cd", strict=True):
            expected = units[np.array(data.labels) == label].mean(0)
            np.testing.assert_allclose(row, expected, rtol=0, atol=1e-6)

    def test_a_head_per_task_keeps_nothing(self, store: AdapterStore) -> None:
        for kind in (Cosine(), Linear()):
            way = learnt(store, Recipe(head=kind), tasks=1, line=type(kind).__name__)
            context = way.started(1)
            assert context.adapted.head.classes == kind.classes(context) == ("c", "d")

    def test_labels_met_again_get_no_second_row(self, store: AdapterStore) -> None:
        """A domain-incremental stream: every task has the labels of the first."""
        again = Task("again", ("a", "b"))
        way = learnt(store, find_recipe("sequential"), tasks=1)
        context = way.context(1, (TASKS[0], again))
        context.seen = ("a", "b")
        context.adapted.detach()
        way.recipe.start(context)
        head = context.adapted.head
        assert head.classes == ("a", "b")
        assert torch.equal(head.weight, store.load("way@1").head_tensors()["weight"])

    @pytest.mark.parametrize("name", ["sequential", "sequential-linear"])
    def test_classes_are_in_the_order_of_the_stream(self, store: AdapterStore, name: str) -> None:
        way = learnt(store, find_recipe(name), tasks=2)
        context = way.started(2)
        assert context.adapted.head.classes == context.seen == tuple("abcdef")
        assert way.recipe.head.classes(context) == context.seen  # the order in which targets are numbered
        kept = store.load("way@2").head_tensors()
        for name, tensor in kept.items():
            assert torch.equal(getattr(context.adapted.head, name)[:4], tensor)

    @pytest.mark.parametrize("kind", ["cosine", "linear"])
    def test_a_head_that_is_no_beginning_of_this_one_does_not_grow(
        self, store: AdapterStore, kind: str
    ) -> None:
        head = Cosine(grow=True) if kind == "cosine" else Linear(grow=True)
        other = Linear(grow=True) if kind == "cosine" else Cosine(grow=True)
        way = learnt(store, Recipe(init=FromLast(), head=head), tasks=1)
        with pytest.raises(
            SpecError, match=rf"^the head of way@1 cannot grow: it is no {kind} head over the fi"
        ):
            way.started(1, (TASKS[1], TASKS[0]))  # another order
        way.recipe = Recipe(init=FromLast(), head=other)
        with pytest.raises(
            SpecError, match=r"^the head of way@1 cannot grow: it is no .* of the classes a, b, c"
        ):
            way.started(1)

    def test_a_label_without_examples_is_named(self, store: AdapterStore) -> None:
        way = Way(store, find_recipe("isolated"))
        context = way.context(0)
        context.data = training("a")
        with pytest.raises(UnsupportedError, match=r"every label of task 'one'; there are none of: b$"):
            way.recipe.start(context)


class TestLinear:
    def test_rows_start_at_random_and_biases_at_zero(self, store: AdapterStore) -> None:
        way = Way(store, find_recipe("isolated-linear"))
        head = way.started(0).adapted.head
        assert isinstance(head, LinearHead)
        assert head.weight.shape == (2, WIDTH)
        assert head.weight.abs().max() <= WIDTH**-0.5
        assert head.weight.std() > 0.1
        assert torch.equal(head.bias, torch.zeros(2))
        again = Way(store, find_recipe("isolated-linear")).started(0).adapted.head
        assert torch.equal(again.weight, head.weight)  # of the seed


class TestOwn:
    def test_a_fresh_adapter_starts_with_the_head_as_first_seen(self, store: AdapterStore) -> None:
        module = Classifier()
        first = {name: tensor.clone() for name, tensor in module.head.state_dict().items()}
        way = learnt(store, Recipe(), tasks=1, module=module)
        assert not same(dict(module.head.state_dict()), first)
        way.started(1)
        assert type(module.head) is nn.Linear
        assert same(dict(module.head.state_dict()), first)

    def test_a_continued_one_goes_on_with_the_head_as_stored(self, store: AdapterStore) -> None:
        way = learnt(store, Recipe(init=FromLast()), tasks=1)
        way.module = Classifier()
        context = way.started(1)
        assert same(dict(way.module.head.state_dict()), store.load("way@1").head_tensors())
        assert Own().classes(context) == ("c", "d")


class TestGatherStatistics:
    def test_every_task_adds_to_what_is_stored(self, store: AdapterStore) -> None:
        way = learnt(store, find_recipe("isolated"))
        versions = [version for version in way.history if version.kind == "statistics"]
        assert [version.parents for version in versions] == [
            (),
            (Parent("way.lda@1", "continued"),),
            (Parent("way.lda@2", "continued"),),
        ]
        assert [version.task for version in versions] == ["one", "two", "three"]
        assert [version.data for version in versions] == [training(task.classes).digest for task in TASKS]
        assert versions[2].head.classes == tuple("abcdef")
        assert versions[2].head.options == {"rule": "lda", "groups": [0, 0, 1, 1, 2, 2], "shrinkage": 0.1}
        first, last = store.load("way.lda@1").head_tensors(), store.load("way.lda@3").head_tensors()
        assert torch.equal(last["means"][:2], first["means"])
        assert last["counts"].tolist() == [8.0] * 6

    def test_features_are_those_of_the_bare_base(self, store: AdapterStore) -> None:
        learnt(store, find_recipe("isolated"), tasks=2)
        learnt(store, find_recipe("frozen"), tasks=2, line="frozen")
        assert store.show("way.lda@2").fingerprint == store.show("frozen.lda@2").fingerprint
        assert store.show("frozen.class-means@2").sha256 == store.show("frozen.lda@2").sha256
        module, data = Classifier(), training("ab")
        with torch.no_grad():
            features = module.encode(module.collate(data.inputs)).double().numpy()
        units = features / np.linalg.norm(features, axis=1, keepdims=True)
        means = store.load("way.lda@1").head_tensors()["means"].numpy()
        for mean, label in zip(means, "ab", strict=True):
            np.testing.assert_allclose(mean, units[np.array(data.labels) == label].mean(0), atol=1e-6)

    def test_the_adapter_in_training_is_where_it_was(self, store: AdapterStore) -> None:
        way = learnt(store, find_recipe("isolated"), tasks=1)
        adapted = way.context(0).adapted
        assert adapted.active
        assert same(adapted.attachment.tensors(), store.load("way.one@1").adapter_tensors())

    def test_without_a_line_they_are_named_by_rule(self, store: AdapterStore) -> None:
        way = Way(store, Recipe(init=NoAdapter(), consolidate=GatherStatistics(("class-means",))), line="")
        assert [version.ref for version in way.recipe.end(way.context(0), None)] == ["class-means@1"]

    def test_statistics_of_another_base_are_refused(self, store: AdapterStore) -> None:
        way = learnt(store, find_recipe("frozen"), tasks=1)
        way.module = Classifier(seed=1)
        with pytest.raises(BaseMismatchError, match=r"^way.class-means@1 was trained on"):
            way.learn(1)
        assert len(store.versions()) == 2

    def test_the_settings_of_a_rule_are_stored(self, store: AdapterStore) -> None:
        recipe = Recipe(init=NoAdapter(), consolidate=GatherStatistics(("lda",), shrinkage=0.3))
        way = Way(store, recipe)
        (version,) = recipe.end(way.context(0), None)
        assert version.head.options["shrinkage"] == 0.3
        assert AdaptedModel.of(way.module).base == version.base
