"""Classifier alignment: what is drawn, what changes, and what stays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from strategies_tiny import TASKS, Classifier, Way, examples, learnt, same, training

from contpeft.errors import SpecError
from contpeft.spec import Single
from contpeft.store import AdapterStore
from contpeft.strategies import AlignClassifier, Linear, NoAdapter, Recipe, Slow, find_recipe
from contpeft.strategies.gaussians import draw, fitted


def sample(seed: int = 0) -> tuple[torch.Tensor, list[str]]:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(2, 4, 4, generator=generator)
    sizes = {"a": 60, "b": 15}
    rows = [
        torch.randn(size, 4, generator=generator) @ mixing[k] + 3 * k for k, size in enumerate(sizes.values())
    ]
    return torch.cat(rows), ["a"] * 60 + ["b"] * 15


class TestGaussians:
    def test_they_are_means_and_covariances(self) -> None:
        features, labels = sample()
        rows = features.double().numpy()
        of = [rows[:60], rows[60:]]
        full = fitted(features, labels, ("a", "b"), "full")
        np.testing.assert_allclose(full["means"].numpy(), [each.mean(0) for each in of])
        covariances = [np.cov(each.T, bias=True) for each in of]
        np.testing.assert_allclose(full["covariance"].numpy(), covariances, rtol=1e-10)
        diagonal = fitted(features, labels, ("a", "b"), "diagonal")["covariance"]
        np.testing.assert_allclose(diagonal.numpy(), [np.diag(each) for each in covariances], rtol=1e-10)
        pooled = (60 * covariances[0] + 15 * covariances[1]) / 75
        shared = fitted(features, labels, ("a", "b"), "shared")["covariance"]
        np.testing.assert_allclose(shared.numpy(), [pooled], rtol=1e-10)

    @pytest.mark.parametrize("covariance", ["full", "diagonal", "shared"])
    def test_what_is_drawn_has_their_moments_and_is_balanced(self, covariance: str) -> None:
        features, labels = sample()
        gaussians = fitted(features, labels, ("a", "b"), covariance)
        drawn, classes = draw(gaussians, 20_000, 0.0, torch.Generator().manual_seed(0))
        assert torch.bincount(classes).tolist() == [20_000, 20_000]  # 60 and 15 examples
        told = gaussians["covariance"].numpy()
        expected = {"full": told, "diagonal": [np.diag(d) for d in told], "shared": [told[0]] * 2}[covariance]
        for k in (0, 1):
            own = drawn[classes == k].numpy()
            np.testing.assert_allclose(own.mean(0), gaussians["means"][k].numpy(), atol=0.1)
            np.testing.assert_allclose(np.cov(own.T), expected[k], atol=0.25)

    def test_few_examples_do_with_shrinkage(self) -> None:
        few = fitted(torch.randn(2, 8), ["a", "a"], ("a",), "full")
        drawn, _ = draw(few, 50, 0.1, torch.Generator().manual_seed(0))
        assert drawn.isfinite().all()
        again, _ = draw(few, 50, 0.1, torch.Generator().manual_seed(0))
        assert torch.equal(drawn, again)


@pytest.fixture(scope="module")
def way(tmp_path_factory: pytest.TempPathFactory) -> Way:
    return learnt(AdapterStore(tmp_path_factory.mktemp("ways") / "store"), find_recipe("slca"))


def test_both_stages_answer(way: Way) -> None:
    assert [version.ref for version in way.history] == [
        *("way@1", "way.gaussians-0@1", "way@2"),
        *("way@3", "way.gaussians-1@1", "way@4"),
        *("way@5", "way.gaussians-2@1", "way@6"),
    ]
    assert way.answers[2] == {"main": Single("way@6"), "before-alignment": Single("way@5")}


def test_the_head_alone_is_aligned(way: Way) -> None:
    for before, after in (("way@1", "way@2"), ("way@5", "way@6")):
        trained, aligned = way.store.load(before), way.store.load(after)
        assert same(trained.adapter_tensors(), aligned.adapter_tensors())
        assert trained.head == aligned.head
        heads = trained.head_tensors(), aligned.head_tensors()
        assert not torch.equal(heads[0]["weight"], heads[1]["weight"])
        assert heads[0]["weight"].shape == heads[1]["weight"].shape
    assert way.context(0).adapted.verify_base().fingerprint == way.store.show("way@1").base.fingerprint


def test_the_next_task_goes_on_from_the_aligned_head(way: Way) -> None:
    assert [parent.ref for parent in way.store.show("way@3").parents] == ["way@2"]
    later, aligned = way.store.load("way@3").head_tensors(), way.store.load("way@2").head_tensors()
    assert torch.equal(later["weight"][:2], aligned["weight"])  # rows of old classes stay in training


def test_alignment_helps_among_all_classes_and_keeps_what_is_known_by_task(way: Way) -> None:
    inputs, labels = examples("abcdef", 20, seed=11)

    def right(answer: str, known: bool) -> float:
        found = [
            way.answerer().predict(way.answers[2][answer], *part, among)
            for part, among in (
                [((inputs, "x"), None)]
                if not known
                else [((examples(t.classes, 20, seed=11)[0], t.name), t.classes) for t in TASKS]
            )
        ]
        asked = labels if not known else [x for t in TASKS for x in examples(t.classes, 20, seed=11)[1]]
        answered = [label for part in found for label in part]
        return float(np.mean([a == b for a, b in zip(answered, asked, strict=True)]))

    assert right("main", known=False) >= right("before-alignment", known=False)
    assert right("main", known=True) >= right("before-alignment", known=True) - 0.05


def test_without_epochs_nothing_is_aligned(store: AdapterStore) -> None:
    recipe = replace(find_recipe("slca"), consolidate=AlignClassifier(epochs=0))
    way = learnt(store, recipe, tasks=2)
    assert same(dict(store.load("way@1").tensors), dict(store.load("way@2").tensors))
    plain = Recipe(init=recipe.init, head=recipe.head, projection=recipe.projection)
    learnt(store, plain, tasks=2, line="plain")
    assert same(dict(store.load("way@3").tensors), dict(store.load("plain@2").tensors))
    assert way.answers[1]["before-alignment"] == Single("way@3")


def test_the_first_task_is_plain_lora_at_the_same_rate(store: AdapterStore) -> None:
    fast = replace(find_recipe("slca"), projection=Slow(1.0), head=Linear(grow=True))
    own = learnt(store, fast, tasks=1).history[0]
    assert (
        own.fingerprint
        == learnt(store, find_recipe("sequential-linear"), tasks=1, line="p").history[0].fingerprint
    )


def test_a_new_process_registers_the_same(way: Way, store: AdapterStore) -> None:
    resumed = Way(store, find_recipe("slca"))
    for step in range(2):
        resumed.module = Classifier()
        resumed.learn(step)
    assert [v.fingerprint for v in resumed.history] == [v.fingerprint for v in way.history[:6]]
    assert training("ab").labels.count("a") == 8


def test_something_must_have_been_trained(store: AdapterStore) -> None:
    way = Way(store, replace(find_recipe("slca"), init=NoAdapter()))
    with pytest.raises(SpecError, match=r"^a classifier is aligned once an adapter with a head was trained"):
        way.learn(0)
