"""Recipes that merge after every task: what they register, what answers, and from where they start."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from strategies_tiny import Classifier, Way, learnt
from tiny_merging import assert_close, combined, dense

from contpeft.errors import NotFoundError, SpecError, UnsupportedError, UsageError
from contpeft.spec import AdapterSpec, Parent, Single
from contpeft.store import AdapterStore
from contpeft.strategies import BestMerge, Consolidate, MergeAfter, MergeEma, MergeOn, find_recipe
from contpeft.strategies.init.orthonormal import orthonormal_rows
from contpeft.strategies.recipes.merging import INITS, MERGING, with_every_init


def trained(way: Way) -> list[str]:
    return [version.ref for version in way.history if version.origin == "trained" and version.adapts]


def merges(way: Way, part: str = "merged") -> list[str]:
    return [version.ref for version in way.history if version.name == f"{way.line}.{part}"]


@pytest.mark.parametrize("name", sorted(MERGING))
def test_with_one_task_it_is_plain_lora(store: AdapterStore, name: str) -> None:
    way = learnt(store, find_recipe(name), tasks=1, line="way")
    plain = learnt(store, find_recipe("sequential-local"), tasks=1, line="plain")
    assert way.history[0].fingerprint == plain.history[0].fingerprint
    assert way.history[0].head == plain.history[0].head
    assert merges(way) == []
    assert way.answers == [{name: Single(way.history[0].ref) for name in ("main", "before-merge")}]


@pytest.mark.parametrize("name", sorted(MERGING))
def test_the_merge_answers_with_the_head_of_the_last_adapter(store: AdapterStore, name: str) -> None:
    way = learnt(store, find_recipe(name), tasks=2)
    last, merged = trained(way)[-1], [v for v in way.history if v.origin == "fused"][-1]
    assert way.answers[1] == {"main": Single(merged.ref, last), "before-merge": Single(last)}
    assert (merged.task, merged.head, merged.kind) == ("two", None, "lora")
    assert store.show(last).head.classes == tuple("abcd")
    data = way.context(1).training_data("this test")
    answered = way.answerer().predict(way.answers[1]["main"], data.inputs, data.digest, ("c", "d"))
    assert sum(map(str.__eq__, answered, data.labels)) >= 0.8 * len(answered)


def test_what_is_merged_is_no_adapter_that_was_trained(store: AdapterStore) -> None:
    way = learnt(store, find_recipe("merge-average"))
    context = way.context(2)
    assert [version.ref for version in context.adapters] == trained(way)
    assert context.previous is not None
    assert context.previous[0].ref == "way.three@1"
    assert merges(way) == ["way.merged@1", "way.merged@2"]
    roles = [(parent.ref, parent.role) for parent in store.show("way.merged@2").parents]
    assert roles == [("way.merged@1", "fused"), ("way.three@1", "fused")]
    assert [store.show(ref).recipe["seen"] for ref in merges(way)] == [2, 3]
    assert all(store.fusion.verify(ref).equal for ref in merges(way))


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("merge-average", (1 / 3, 1 / 3, 1 / 3)),
        ("merge-average-sequential", (1 / 3, 1 / 3, 1 / 3)),
        ("merge-sum", (1, 1, 1)),
        ("merge-task-arithmetic", (0.3, 0.3, 0.3)),
        ("merge-ema", (0.25, 0.25, 0.5)),
    ],
)
def test_a_running_linear_merge_is_that_of_all_updates(
    store: AdapterStore, name: str, weights: tuple[float, ...]
) -> None:
    way = learnt(store, find_recipe(name))
    expected = combined(*((w, dense(store, ref)) for w, ref in zip(weights, trained(way), strict=True)))
    assert_close(dense(store, way.answers[2]["main"].ref), expected)


def test_a_running_magmax_is_half_the_largest_change_of_each_weight(store: AdapterStore) -> None:
    way = learnt(store, find_recipe("merge-magmax"))
    updates = [dense(store, ref) for ref in trained(way)]
    expected = {}
    for module in updates[0]:
        stack = np.stack([update[module] for update in updates])
        largest = np.abs(stack).argmax(0)
        expected[module] = 0.5 * np.take_along_axis(stack, largest[None], 0)[0]
    assert_close(dense(store, "way.scaled@2"), expected, 1e-4)


@pytest.mark.parametrize(("rule", "told"), [("opcm", {}), ("null-space", {}), ("average", {})])
def test_taken_in_one_by_one_is_merged_all_at_once(
    store: AdapterStore, rule: str, told: dict[str, float]
) -> None:
    recipe = replace(find_recipe("merge-average"), consolidate=MergeOn(rule, told, rank="full"))
    batch = replace(recipe, consolidate=MergeAfter(rule, told, rank="full"))
    one = learnt(store, recipe, line="one")
    all_ = learnt(store, batch, line="all")
    assert [store.show(ref).fingerprint for ref in trained(one)] == [
        store.show(ref).fingerprint for ref in trained(all_)
    ]
    assert_close(dense(store, merges(one)[-1]), dense(store, merges(all_)[-1]), 1e-4)


def test_a_running_merge_at_a_rank_of_its_own_takes_constant_room(store: AdapterStore) -> None:
    recipe = replace(find_recipe("merge-average"), consolidate=MergeOn("average", rank="3"))
    way = learnt(store, recipe)
    sizes = [store.show(ref).parameters for ref in merges(way)]
    assert sizes[0] == sizes[1]
    told = [store.show(ref).recipe for ref in merges(way)]
    assert all(each is not None and each["error"] > 0 and 0 < each["energy_lost"] < 1 for each in told)
    whole = learnt(store, find_recipe("merge-average"), line="whole")
    assert store.show(merges(whole)[-1]).recipe["energy_lost"] == 0


@pytest.mark.parametrize(("decay", "kept"), [(0.0, -1), (1.0, 0)])
def test_the_ends_of_a_moving_average_are_the_last_and_the_first(
    store: AdapterStore, decay: float, kept: int
) -> None:
    recipe = replace(find_recipe("merge-ema-independent"), consolidate=MergeEma(decay))
    way = learnt(store, recipe)
    assert_close(dense(store, merges(way)[-1]), dense(store, trained(way)[kept]))


def test_a_step_that_was_killed_leaves_nothing_that_counts(store: AdapterStore) -> None:
    whole = learnt(store, find_recipe("merge-opcm"), line="whole")
    way = learnt(store, find_recipe("merge-opcm"), tasks=2)
    before = way.history
    way.learn(2)
    way.history = before  # registered, but the step was never finished
    assert len(store.versions(name="way.merged")) == 2
    way.module = Classifier()
    way.learn(2)
    assert [version.fingerprint for version in way.history] == [v.fingerprint for v in whole.history]


def test_a_rule_that_draws_draws_from_the_task(store: AdapterStore) -> None:
    one, two = (learnt(store, find_recipe("merge-dare"), line=line) for line in ("one", "two"))
    assert [v.fingerprint for v in one.history] == [v.fingerprint for v in two.history]
    seeds = [store.show(ref).recipe["seed"] for ref in merges(one)]
    assert seeds == [1, 2]


def test_every_start_can_be_had_of_every_rule() -> None:
    ways = with_every_init("merge-ties")
    assert list(ways) == [f"merge-ties-from-{start}" for start in ("fresh", "last", "merged", "orthonormal")]
    assert [way.init for way in ways.values()] == list(INITS.values())
    assert all(way.consolidate == MergeAfter("ties") for way in ways.values())


@pytest.mark.parametrize("start", sorted(INITS))
def test_every_start_learns(store: AdapterStore, start: str) -> None:
    way = learnt(store, with_every_init("merge-average")[f"merge-average-from-{start}"])
    data = way.context(2).training_data("this test")
    answered = way.answerer().predict(way.answers[2]["before-merge"], data.inputs, data.digest, ("e", "f"))
    assert sum(map(str.__eq__, answered, data.labels)) >= 0.8 * len(answered)


class TestFromMerged:
    def test_it_starts_as_the_merge_answers(self, store: AdapterStore) -> None:
        recipe = replace(find_recipe("merge-ema"), consolidate=MergeEma(rank="same"))
        way = learnt(store, recipe, tasks=2)
        context = way.started(2)
        assert context.parents == (Parent("way.merged@1", "continued"),)
        live = {m: f.delta().detach().double().numpy() for m, f in context.factors("this test").items()}
        assert_close(live, dense(store, "way.merged@1"))
        for factors in context.factors("this test").values():
            norms = factors.down.norm(dim=1), factors.up.norm(dim=0)
            torch.testing.assert_close(*norms, rtol=1e-4, atol=1e-5)

    def test_of_a_larger_merge_it_is_the_best_approximation(self, store: AdapterStore) -> None:
        way = learnt(store, find_recipe("merge-ema"), tasks=2)
        context, merged = way.started(2), dense(store, "way.merged@1")
        for module, factors in context.factors("this test").items():
            u, s, vh = np.linalg.svd(merged[module])
            best = (u[:, :2] * s[:2]) @ vh[:2]
            np.testing.assert_allclose(factors.delta().detach().numpy(), best, atol=1e-4 * s[0])

    def test_before_the_first_merge_the_last_version_is_trained_on(self, store: AdapterStore) -> None:
        way = learnt(store, find_recipe("merge-ema"), tasks=1)
        assert way.started(1).parents == (Parent("way@1", "continued"),)


class TestSlao:
    def test_inputs_start_as_an_orthonormal_basis_of_what_the_last_adapter_read(
        self, store: AdapterStore
    ) -> None:
        way = learnt(store, find_recipe("slao"), tasks=1)
        before = way.context(1).store.load("way@1")
        context = way.started(1)
        for module, (down, up, _) in context.factors("this test").items():
            a = before.tensors[f"base_model.model.{module}.lora_A.weight"]
            torch.testing.assert_close(down @ down.T, torch.eye(2), rtol=0, atol=1e-6)
            inside = a - a @ down.T @ down  # what the last adapter read beside the new rows' span
            assert inside.norm() < 1e-5 * a.norm()
            assert torch.equal(up, before.tensors[f"base_model.model.{module}.lora_B.weight"])

    def test_the_merge_has_the_last_inputs_and_outputs_that_follow_by_a_root(
        self, store: AdapterStore
    ) -> None:
        learnt(store, find_recipe("slao"))
        states = [store.load(ref).tensors for ref in ("way@1", "way@2", "way@3")]
        merged = store.load("way.merged@2").tensors
        for name in merged:
            if ".lora_A." in name:
                assert torch.equal(merged[name], states[2][name])
            else:
                one, two, three = (state[name].double() for state in states)
                second = one + (two - one) / 2**0.5
                third = second + (three - second) / 3**0.5
                torch.testing.assert_close(merged[name].double(), third, rtol=1e-5, atol=1e-6)

    def test_what_is_kept_does_not_grow(self, store: AdapterStore) -> None:
        way = learnt(store, find_recipe("slao"))
        assert {store.show(ref).parameters for ref in [*merges(way), *trained(way)]} == {256}

    def test_rows_are_unique_and_their_signs_are_those_of_the_factorisation(self) -> None:
        a = torch.randn(3, 7, generator=torch.Generator().manual_seed(0))
        rows = orthonormal_rows(a, "m")
        lower = (a.double() @ rows.double().T).numpy()  # A = R^T Q^T, R upper triangular
        np.testing.assert_allclose(np.triu(lower, 1), 0, atol=1e-5)
        assert (np.diag(lower) > 0).all()

    def test_more_rows_than_a_layer_reads_are_refused(self) -> None:
        with pytest.raises(UnsupportedError, match=r"^'m' reads 2 values, which have no 3 orthonormal"):
            orthonormal_rows(torch.randn(3, 2), "m")

    def test_another_method_is_refused_by_name(self, store: AdapterStore) -> None:
        way = Way(store, find_recipe("slao"), spec=AdapterSpec("ia3"))
        with pytest.raises(UnsupportedError, match=r"^an orthonormal start works on the factors of LoRA"):
            way.learn(0)


def test_other_methods_are_merged_where_there_is_a_merge_of_them(store: AdapterStore) -> None:
    spec = AdapterSpec("ia3")
    learnt(store, find_recipe("merge-average"), tasks=2, spec=spec)
    assert store.show("way.merged@1").kind == "ia3"


@pytest.mark.parametrize(
    ("consolidate", "spec", "told"),
    [
        (
            MergeOn("null-space"),
            AdapterSpec("ia3"),
            r"^rule 'null-space' cannot merge vectors of 'ia3'; use ",
        ),
        (
            MergeAfter("ties"),
            AdapterSpec("loha", r=2),
            r"^the adapter is of method 'loha', whose tensors have no sum",
        ),
        (MergeEma(), AdapterSpec("loha", r=2), r"^the adapter is of method 'loha'"),
        (
            MergeAfter("regmean"),
            AdapterSpec("lora"),
            r"^rule 'regmean' needs gram of every adapter, which no ",
        ),
        (BestMerge(), AdapterSpec("ia3"), r"^rule 'opcm' cannot merge vectors of 'ia3'"),
    ],
)
def test_what_has_no_merge_is_refused_before_training(
    store: AdapterStore, consolidate: Consolidate, spec: AdapterSpec, told: str
) -> None:
    way = Way(store, replace(find_recipe("merge-average"), consolidate=consolidate), spec=spec)
    with pytest.raises(UnsupportedError, match=told):
        way.started(0)


def test_an_unknown_rule_is_refused_by_name_before_training(store: AdapterStore) -> None:
    way = Way(store, replace(find_recipe("merge-ties"), consolidate=MergeAfter("tys")))
    with pytest.raises(NotFoundError, match=r"^no merging rule 'tys'"):
        way.started(0)


def test_a_rank_that_is_none_is_refused_before_training(store: AdapterStore) -> None:
    way = Way(store, replace(find_recipe("merge-average"), consolidate=MergeOn(rank="sixty")))
    with pytest.raises(UsageError, match="sixty"):
        way.started(0)


def test_a_rule_without_a_running_form_is_refused_by_name() -> None:
    with pytest.raises(
        SpecError, match=r"^rule 'ties' has no running form; use MergeAfter, or one of: average"
    ):
        MergeOn("ties")
