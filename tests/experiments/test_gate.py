"""The gate: what was lost is found, named and decided on as measured."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from evaluation_files import BILLING, BOTH, TRAVEL, headless, noisy, register, without_class, write_tickets
from hypothesis import given
from hypothesis import strategies as st

from contpeft.errors import NotFoundError, UsageError
from contpeft.experiments.config import load_evaluation
from contpeft.experiments.evaluation import Evaluation
from contpeft.experiments.gate import _short, gate
from contpeft.experiments.gate_report import GateReport, SliceChange, TaskChange
from contpeft.metrics.paired import compare, holm, mean_of
from contpeft.store import AdapterStore


def gated(store: AdapterStore, candidate: str, champion: str = BOTH, **options: Any) -> GateReport:
    told = {key: options.pop(key) for key in ("rows", "heads") if key in options}
    asked = Evaluation(load_evaluation(store.path.parent / "eval.yaml"), store, **told)
    return gate(asked, candidate, champion, **options)


def report(*losses: tuple[int, int], allowed: float = 0.01, per_task: bool = False) -> GateReport:
    """Returns a report of tasks with so many rows lost of so many, the champion right everywhere."""
    changes = [compare([True] * n, [k >= lost for k in range(n)]) for lost, n in losses]
    tasks = tuple(TaskChange(f"t{k}", "a@1", "b@1", change, ()) for k, change in enumerate(changes))
    return GateReport(
        "a@1", "b@1", "task_aware", "accuracy", allowed, per_task, 0.05, mean_of(changes), tasks, ()
    )


class TestOnRealVersions:
    def test_a_version_against_itself_passes_with_zeros(self, support: AdapterStore) -> None:
        found = gated(support, BOTH, max_forgetting=0.0, per_task=True)
        assert found.passed
        for change in (found.mean, *(each.change for each in (*found.tasks, *found.slices))):
            assert (change.difference, change.p) == (0.0, 1.0)
        assert found.wrong == found.lost_slices == ()
        assert [(each.column, each.value) for each in found.slices] == [
            ("channel", "mail"), ("channel", "phone"), ("lang", "de"), ("lang", "en"),
        ]  # fmt: skip
        assert found.verdict() == [
            f"passed: {BOTH} against {BOTH} has 100.0 % (was 100.0 %, +0.0) on the mean of 2 tasks"
        ]

    def test_noise_fails_and_every_row_that_turned_wrong_is_named(self, support: AdapterStore) -> None:
        register(support, "noisy", noisy(support.load(BOTH)), BOTH)
        found = gated(support, "noisy")
        assert not found.passed
        asked = Evaluation(load_evaluation(support.path.parent / "eval.yaml"), support)
        for task, change in zip(asked.tasks, found.tasks, strict=True):
            answered = asked.labels("noisy", task)
            wrong = [i for i, (a, b) in enumerate(zip(answered, task.rows.labels, strict=True)) if a != b]
            assert [row.id for row in change.wrong] == [task.rows.ids[i] for i in wrong]
            assert [row.answered for row in change.wrong] == [answered[i] for i in wrong]
            assert change.change.after == 1 - len(wrong) / 16
        assert found.mean.after == sum(each.change.after for each in found.tasks) / 2

    def test_the_spoiled_task_and_slice_are_named_and_the_others_are_not(self, support: AdapterStore) -> None:
        register(support, "deaf", without_class(support.load(BOTH), "refund"), BOTH)
        found = gated(support, "deaf", per_task=True, slices=["channel", "label"])
        assert list(found.failures) == ["the mean over tasks", "task billing"]
        assert [each.change.difference for each in found.tasks] == [-0.5, 0.0]
        worst = found.lost_slices[:2]
        assert {(each.column, each.value) for each in worst} == {("channel", "mail"), ("label", "refund")}
        assert all(each.change.after == 0 for each in worst)
        assert {(row.label, row.answered) for row in found.wrong} == {("refund", "invoice")}
        assert "give me my money back, test 0" in [row.input for row in found.wrong]

    def test_slices_are_of_all_tasks_and_their_p_values_corrected(self, support: AdapterStore) -> None:
        register(support, "deaf", without_class(support.load(BOTH), "refund"), BOTH)
        found = {(each.column, each.value): each for each in gated(support, "deaf").slices}
        assert {cell: each.change.n for cell, each in found.items()} == {
            ("channel", "mail"): 8, ("channel", "phone"): 24, ("lang", "de"): 16, ("lang", "en"): 16,
        }  # fmt: skip
        raw = [each.change.p for each in found.values()]
        assert tuple(each.p for each in found.values()) == holm(raw)
        assert found["channel", "mail"].p == pytest.approx(4 * 0.5**8)

    def test_a_loss_on_one_task_passes_on_the_mean_and_fails_with_per_task(
        self, support: AdapterStore
    ) -> None:
        register(support, "deaf", without_class(support.load(BOTH), "refund"), BOTH)
        assert gated(support, "deaf", max_forgetting=0.25).passed
        assert not gated(support, "deaf", max_forgetting=0.25, per_task=True).passed

    def test_a_merged_version_is_gated_with_its_parents_heads(self, support: AdapterStore) -> None:
        register(support, "fused", headless(support.load(BILLING)), BILLING, TRAVEL, fused=True)
        found = gated(support, "fused", max_forgetting=1.0)
        assert [each.candidate for each in found.tasks] == [
            f"fused@1 (head {BILLING})",
            f"fused@1 (head {TRAVEL})",
        ]
        assert [each.champion for each in found.tasks] == [BOTH, BOTH]

    def test_rows_without_columns_have_no_slices_but_by_label(self, support: AdapterStore) -> None:
        file = support.path.parent / "eval.yaml"
        file.write_text(file.read_text().replace(", columns: [channel, lang]", ""))
        assert gated(support, BOTH).slices == ()
        assert len(gated(support, BOTH, slices=["label"]).slices) == 4
        with pytest.raises(UsageError, match=r"no row has a column 'lang'.*columns: \[\.\.\.\]"):
            gated(support, BOTH, slices=["lang"])

    def test_columns_do_not_change_what_is_known(self, support: AdapterStore) -> None:
        gated(support, BOTH)
        before = support.scores()
        file = support.path.parent / "eval.yaml"
        file.write_text(file.read_text().replace(", columns: [channel, lang]", ""))
        gated(support, BOTH)
        assert support.scores() == before

    def test_few_rows_are_enough_to_fail_and_too_few_to_tell(self, support: AdapterStore) -> None:
        write_tickets(support.path.parent / "tickets", tests=2)
        register(support, "deaf", without_class(support.load(BOTH), "refund"), BOTH)
        found = gated(support, "deaf")
        (told,) = found.verdict()
        assert told.startswith("failed: the mean over tasks lost 25.0, 1.0 may be lost (cannot be told from")
        assert told.endswith("chance with n=8 rows)")

    def test_the_report_is_json(self, support: AdapterStore) -> None:
        register(support, "deaf", without_class(support.load(BOTH), "refund"), BOTH)
        told = json.loads(json.dumps(gated(support, "deaf").to_json()))
        assert (told["passed"], told["candidate"], told["champion"]) == (False, "deaf@1", BOTH)
        assert told["tasks"][0]["lost"] == 8
        assert told["tasks"][0]["difference"] == -0.5
        assert len(told["tasks"][0]["wrong"]) == 8
        assert {"column": "channel", "value": "mail"}.items() <= told["slices"][0].items()

    def test_what_cannot_be_asked(self, support: AdapterStore) -> None:
        with pytest.raises(UsageError, match=r"max_forgetting is 1\.5; give a share"):
            gated(support, BOTH, max_forgetting=1.5)
        with pytest.raises(NotFoundError, match="no adapter 'nobody'"):
            gated(support, "nobody")


class TestVerdict:
    def test_a_loss_of_just_what_is_allowed_passes(self) -> None:
        assert report((1, 100)).passed
        assert report((3, 100), allowed=0.03).passed
        assert not report((2, 100)).passed

    @given(st.lists(st.tuples(st.integers(0, 40), st.just(40)), min_size=1, max_size=5), st.floats(0, 1))
    def test_the_measured_loss_decides(self, losses: list[tuple[int, int]], allowed: float) -> None:
        shares = [lost / n for lost, n in losses]
        mean = sum(shares) / len(shares)
        slack = 1e-6
        if abs(mean - allowed) > slack:
            assert report(*losses, allowed=allowed).passed == (mean < allowed)
        if abs(max(shares) - allowed) > slack:
            assert report(*losses, allowed=allowed, per_task=True).passed == (max(shares) < allowed)

    def test_chance_is_put_into_words_and_decides_nothing(self) -> None:
        blame = "failed: the mean over tasks lost 2.0, 1.0 may be lost"
        assert report((1, 50)).verdict() == [f"{blame} (cannot be told from chance with n=50 rows)"]
        assert report((20, 50)).verdict() == ["failed: the mean over tasks lost 40.0, 1.0 may be lost"]
        assert (
            report((20, 50), (0, 50), per_task=True).verdict()[1]
            == "failed: task t0 lost 40.0, 1.0 may be lost"
        )

    def test_a_pass_says_what_it_does_not_rule_out(self) -> None:
        assert report((0, 50)).verdict() == [
            "passed: b@1 against a@1 has 100.0 % (was 100.0 %, +0.0) on the mean of 1 task; "
            "with n=50 rows a true loss of up to 7.1 is not ruled out"
        ]
        assert "ruled out" not in report((0, 50), allowed=0.1).verdict()[0]

    def test_the_worst_slice_comes_first(self) -> None:
        slight, heavy = compare([1, 1, 1, 1], [0, 1, 1, 1]), compare([1, 1, 1, 1], [0, 0, 0, 1])
        slices = (SliceChange("a", "x", slight, 1.0), SliceChange("a", "y", heavy, 0.25))
        found = report((1, 4))
        found = GateReport(**{**vars(found), "slices": slices})
        assert [each.value for each in found.lost_slices] == ["y", "x"]


def test_inputs_are_shown_in_a_line() -> None:
    assert _short("two\n lines") == "two lines"
    assert _short("x" * 61) == "x" * 57 + "..."
    assert _short(np.zeros((8, 8, 3))) == "ndarray 8x8x3"
