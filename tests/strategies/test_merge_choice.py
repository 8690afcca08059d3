"""Merges that are taken back, chosen between, and the rows they are measured on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from strategies_tiny import TASKS, Way, learnt, training
from tiny_merging import assert_close, combined, dense

from contpeft.errors import SpecError, UnsupportedError
from contpeft.spec import Part, Single
from contpeft.store import AdapterStore
from contpeft.strategies import (
    BestMerge,
    Context,
    KeepRows,
    MergeAfter,
    Merged,
    MergeOn,
    Recipe,
    RepairMerge,
    Then,
    find_recipe,
)
from contpeft.strategies.drift import LostOnRows, MovedAnswers, accuracy_on
from contpeft.strategies.kept_rows import KeptTask, drawn_rows, kept_rows, remember_rows

SEQUENTIAL = find_recipe("merge-repaired")


def repairing(tolerance: float, drift: Any = None) -> Recipe:
    part = RepairMerge(tolerance, drift or MovedAnswers())
    return replace(SEQUENTIAL, consolidate=Then((MergeOn("average"), part)))


class TestRepair:
    def test_what_drifts_too_far_is_interpolated_as_little_as_it_needs(self, store: AdapterStore) -> None:
        loose = learnt(store, repairing(1.0), tasks=2, line="loose")
        assert not [version for version in loose.history if version.name == "loose.repaired"]
        context = loose.context(1)
        context.history = loose.history[:1]
        before, merged = Single("loose@1", "loose@2"), Single("loose.merged@1", "loose@2")
        whole = MovedAnswers().between(context, before, merged)
        assert 0 < whole < 1
        way = learnt(store, repairing(whole / 2), tasks=2)
        repaired = way.history[-1]
        assert (repaired.ref, way.answers[1]["main"]) == ("way.repaired@1", Single(repaired.ref, "way@2"))
        share = repaired.recipe["share"]
        assert 0 < share < 1
        context = way.context(1)
        context.history = way.history[:1]
        drift = MovedAnswers().between(context, Single("way@1", "way@2"), Single(repaired.ref, "way@2"))
        assert drift <= whole / 2 * 1.01
        expected = combined((share, dense(store, "way.merged@1")), (1 - share, dense(store, "way@1")))
        assert_close(dense(store, repaired.ref), expected)

    def test_without_tolerance_the_merge_stays_what_it_was(self, store: AdapterStore) -> None:
        way = learnt(store, repairing(0.0))
        first = dense(store, "way@1")
        assert [v.recipe["share"] for v in way.history if v.name == "way.repaired"] == [0.0, 0.0]
        assert_close(dense(store, way.answers[2]["main"].ref), first)

    def test_the_running_merge_goes_on_unrepaired(self, store: AdapterStore) -> None:
        way = learnt(store, repairing(0.0))
        plain = learnt(store, replace(SEQUENTIAL, consolidate=MergeOn("average")), line="plain")
        ours, theirs = ([v for v in each.history if v.name.endswith(".merged")] for each in (way, plain))
        assert [v.fingerprint for v in ours] == [v.fingerprint for v in theirs]

    def test_nothing_to_repair_is_said(self, store: AdapterStore) -> None:
        way = learnt(store, replace(SEQUENTIAL, consolidate=RepairMerge()), tasks=1)
        with pytest.raises(UnsupportedError, match=r"^there is no merge to repair; let a part that merges"):
            way.learn(1)

    def test_rows_that_are_kept_can_say_what_was_lost(self, store: AdapterStore) -> None:
        class Loses:
            """Says that any change loses all."""

            def between(self, context: Context, before: Part, after: Part) -> float:
                return 0.0 if isinstance(after, Single) and after.ref == before.ref else 1.0  # type: ignore[union-attr]

        way = learnt(store, repairing(0.5, Loses()), tasks=2)
        assert way.history[-1].recipe["share"] == 0.0


class TestDrift:
    def test_moved_answers_is_the_mean_total_variation_between_earlier_classes(
        self, store: AdapterStore
    ) -> None:
        way = learnt(store, find_recipe("merge-average-sequential"), tasks=2)
        context = way.context(1)
        context.history = way.history[:1]
        parts = Single("way@1", "way@2"), Single("way.merged@1", "way@2")
        answers = []
        for part in parts:
            with context.adapted.applied(part, context.load):
                scores = context.features.scores(training("cd").inputs).double().numpy()[:, :2]
            exponents = np.exp(scores - scores.max(1, keepdims=True))
            answers.append(exponents / exponents.sum(1, keepdims=True))
        expected = 0.5 * np.abs(answers[0] - answers[1]).sum(1).mean()
        assert MovedAnswers().between(context, *parts) == pytest.approx(expected, rel=1e-6)
        assert MovedAnswers().between(context, parts[0], parts[0]) == 0.0

    def test_lost_on_rows_is_the_largest_loss_of_a_task(
        self, store: AdapterStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        way = learnt(store, find_recipe("merge-repaired-on-rows"), tasks=2)
        told = {"before": [0.9, 0.8], "after": [0.95, 0.5]}
        monkeypatch.setattr(
            "contpeft.strategies.drift.accuracy_on", lambda _context, _tasks, part: told[part.ref]
        )
        lost = LostOnRows().between(way.context(2), Single("before"), Single("after"))
        assert lost == pytest.approx(0.3)

    def test_nothing_is_lost_where_nothing_is_kept(self, store: AdapterStore) -> None:
        way = learnt(store, find_recipe("slao"), tasks=2)
        assert LostOnRows().between(way.context(2), Single("way@1"), Single("way@2")) == 0.0

    def test_accuracy_is_that_of_the_answers(self, store: AdapterStore) -> None:
        way = learnt(store, find_recipe("sequential-local"), tasks=1)
        data = training("ab")
        right = KeptTask(("a", "b"), tuple(data.inputs), tuple(data.labels))
        wrong = replace(right, labels=tuple("ba"["ab".index(label)] for label in data.labels))
        high, low = accuracy_on(way.context(0), [right, wrong], Single("way@1"))
        assert high + low == pytest.approx(1.0)
        assert high > 0.85


class TestRows:
    def test_all_tasks_share_a_bounded_number_of_rows(self, store: AdapterStore) -> None:
        way = learnt(store, Recipe(head=SEQUENTIAL.head, consolidate=KeepRows(rows=12)))
        tasks = kept_rows(way.context(2))
        assert [len(task.labels) for task in tasks] == [4, 4, 4]
        assert [task.classes for task in tasks] == [task.classes for task in TASKS]
        for task, labels in zip(tasks, ("ab", "cd", "ef"), strict=True):
            rows = list(zip(training(labels).inputs, training(labels).labels, strict=True))
            assert all(pair in rows for pair in zip(task.inputs, task.labels, strict=True))
            assert len(set(task.inputs)) == 4

    def test_the_same_seed_draws_the_same_rows_and_another_draws_others(self, store: AdapterStore) -> None:
        context = Way(store, Recipe()).context(0)
        first = drawn_rows(context, "this test")
        assert drawn_rows(context, "this test") == first
        context.seed = 7
        assert drawn_rows(context, "this test") != first
        assert sorted(drawn_rows(context, "this test").inputs) == sorted(first.inputs)

    @pytest.mark.parametrize(
        "inputs",
        [("one", "two"), ((1, 2), (3, 4)), (torch.ones(2, 3), torch.zeros(2, 3))],
        ids=["texts", "numbers", "tensors"],
    )
    def test_raw_inputs_come_back_as_they_were(self, store: AdapterStore, inputs: tuple[Any, ...]) -> None:
        context = Way(store, Recipe()).context(0)
        remember_rows(context, [KeptTask(("a", "b"), inputs, ("a", "b"))])
        later = Way(store, Recipe(), history=tuple(store.versions())).context(1)
        [task] = kept_rows(later)
        assert (task.classes, task.labels) == (("a", "b"), ("a", "b"))
        if isinstance(inputs[0], torch.Tensor):
            assert all(map(torch.equal, task.inputs, inputs))
        else:
            assert task.inputs == inputs

    def test_inputs_that_cannot_be_kept_are_refused_by_name(self, store: AdapterStore) -> None:
        context = Way(store, Recipe()).context(0)
        with pytest.raises(UnsupportedError, match=r"^rows of object cannot be kept to measure on"):
            remember_rows(context, [KeptTask(("a",), (object(),), ("a",))])


class TestChoice:
    @pytest.mark.parametrize("by", ["interference", "rows"])
    def test_the_best_is_kept_and_the_rest_is_told(self, store: AdapterStore, by: Any) -> None:
        bad = MergeAfter("task-arithmetic", {"scale": -40.0})
        good = MergeAfter("average")
        choose = BestMerge((bad, good, bad), by=by)
        recipe = Recipe(
            init=find_recipe("merge-average").init,
            head=SEQUENTIAL.head,
            consolidate=Then((KeepRows(), choose)) if by == "rows" else choose,
            answers=Merged(),
        )
        way = learnt(store, recipe)
        merged = [version for version in way.history if version.name == "way.merged"]
        assert [version.recipe["chosen"] for version in merged] == [1, 1]
        tried = merged[-1].recipe["tried"]
        assert [each["rule"] for each in tried] == ["task-arithmetic", "average", "task-arithmetic"]
        assert tried[1]["value"] > tried[0]["value"] == tried[2]["value"]
        assert merged[-1].recipe["by"] == by
        plain = learnt(store, find_recipe("merge-average"), line="plain")
        assert_close(dense(store, merged[-1].ref), dense(store, plain.answers[2]["main"].ref))
        assert store.fusion.verify(merged[-1].ref).equal

    def test_of_equals_the_first_wins(self, store: AdapterStore) -> None:
        recipe = replace(
            find_recipe("merge-best"),
            consolidate=BestMerge((MergeAfter("average"), MergeAfter("average", {}))),
        )
        way = learnt(store, recipe, tasks=2)
        assert way.history[-1].recipe["chosen"] == 0

    def test_interference_is_the_accuracy_less_what_is_lost_of_each(self, store: AdapterStore) -> None:
        recipe = replace(find_recipe("merge-best"), consolidate=BestMerge((MergeAfter("average"),)))
        way = learnt(store, recipe, tasks=2)
        context = way.context(1)
        updates = [dense(store, f"way.{name}@1") for name in ("one", "two")]
        merged = dense(store, "way.merged@1")
        lost = []
        for update in updates:
            terms = []
            for module, own in update.items():
                _, s, vh = np.linalg.svd(own)
                keep = s > 1e-6 * s[0]
                v = vh[: keep.sum()].T * s[keep]
                terms.append(
                    (np.sum(((merged[module] - own) @ v) ** 2), np.sum((own @ v) ** 2), np.sum(s**2))
                )
            lost.append(np.sqrt(sum(a / c for a, _, c in terms) / sum(b / c for _, b, c in terms)))
        data = training("cd")
        [right] = accuracy_on(
            context,
            [KeptTask(("c", "d"), tuple(data.inputs), tuple(data.labels))],
            Single("way.merged@1", "way.two@1"),
        )
        value = way.history[-1].recipe["tried"][0]["value"]
        assert value == pytest.approx(right - np.mean(lost), abs=1e-4)

    def test_nothing_to_choose_from_is_refused(self) -> None:
        with pytest.raises(SpecError, match=r"^there is no merge to choose from"):
            BestMerge(())
