"""Measuring stored versions: what is answered, whose head answers, and that nothing is measured twice."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluation_files import BILLING, BOTH, TRAVEL, headless, noisy, register
from torch.nn import functional as F

from contpeft.adapters import AdaptedModel
from contpeft.errors import BaseMismatchError, ConfigError, NotFoundError, SpecError, UsageError
from contpeft.experiments.config import load_evaluation
from contpeft.experiments.evaluation import Evaluation
from contpeft.spec import Single
from contpeft.store import AdapterStore
from contpeft.strategies import Answerer


def evaluation(store: AdapterStore, **options: Any) -> Evaluation:
    return Evaluation(load_evaluation(store.path.parent / "eval.yaml"), store, **options)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes every composition that answers."""
    asked: list[str] = []
    predict = Answerer.predict

    def noting(self: Answerer, composition: Any, *arguments: Any) -> list[str]:
        asked.append(str(composition))
        return predict(self, composition, *arguments)

    monkeypatch.setattr(Answerer, "predict", noting)
    return asked


class TestFiles:
    def test_an_experiment_is_an_evaluation_as_it_is(self) -> None:
        asked = load_evaluation(Path(__file__).parents[2] / "experiments" / "quickstart.yaml")
        assert (asked.name, asked.stream.test_per_class, asked.threads) == ("quickstart", 50, 2)

    def test_a_stream_is_needed_and_a_typo_refused(self, tmp_path: Path) -> None:
        file = tmp_path / "eval.yaml"
        good = "stream: {source: {class_path: Digits}}"
        for text, said in {"seed: 1": "stream", f"{good}\nthread: 1": "did you mean 'threads'?"}.items():
            file.write_text(text)
            with pytest.raises(ConfigError, match=re.escape(said)):
                load_evaluation(file)


class TestAnswers:
    def test_labels_are_those_of_adapter_and_head(self, support: AdapterStore) -> None:
        asked = evaluation(support)
        task = asked.tasks[1]
        module = load_evaluation(support.path.parent / "eval.yaml").make_module().eval()
        state = support.load(TRAVEL)
        assert state.head is not None
        AdaptedModel.of(module).attach_state(state)
        with torch.no_grad():
            features = F.normalize(module.encode(module.collate(task.rows.inputs)), dim=1)  # type: ignore[operator]
        best = (features @ F.normalize(state.tensors["head.weight"], dim=1).T).argmax(1)
        assert asked.labels(TRAVEL, task) == tuple(state.head.classes[i] for i in best.tolist())

    def test_protocols_differ_in_what_may_be_answered(self, support: AdapterStore) -> None:
        register(support, "noisy", noisy(support.load(BOTH)), BOTH)
        asked = evaluation(support)
        task = asked.tasks[0]
        assert set(asked.labels("noisy", task)) <= {"refund", "invoice"}
        among_all = asked.labels("noisy", task, "all_classes")
        assert set(among_all) - {"refund", "invoice"}
        right = [one == label for one, label in zip(among_all, task.rows.labels, strict=True)]
        assert asked.score("noisy", task, "all_classes") == sum(right) / len(right)
        with pytest.raises(UsageError, match="protocol 'seen_classes' is of a sequence"):
            asked.score(BOTH, task, "seen_classes")

    def test_a_merged_version_answers_each_task_with_the_head_of_a_parent(
        self, support: AdapterStore
    ) -> None:
        state = headless(support.load(BILLING))
        register(support, "fused", state, BILLING, TRAVEL, fused=True)
        asked = evaluation(support)
        assert [asked.answers("fused", task) for task in asked.tasks] == [
            Single("fused@1", BILLING),
            Single("fused@1", TRAVEL),
        ]
        assert asked.labels("fused", asked.tasks[0]) == asked.labels(BILLING, asked.tasks[0])

    def test_a_chosen_head_answers_where_its_own_does_not(self, support: AdapterStore) -> None:
        with pytest.raises(
            SpecError, match="does not know the class 'flight' of task 'travel'; give --head tra"
        ):
            evaluation(support).score(BILLING, evaluation(support).tasks[1])
        asked = evaluation(support, heads={"travel": TRAVEL})
        assert asked.answers(BILLING, asked.tasks[1]) == Single(BILLING, TRAVEL)
        with pytest.raises(UsageError, match="--head names the task 'travle'"):
            evaluation(support, heads={"travle": TRAVEL})

    def test_versions_must_be_there_and_of_this_base(self, support: AdapterStore) -> None:
        asked = evaluation(support)
        assert asked.resolve("support.sequential") == BOTH
        with pytest.raises(NotFoundError, match=r"support\.sequental"):
            asked.resolve("support.sequental")
        other = support.show(BILLING).base
        support.register("far", support.load(BILLING), base=type(other)("far", "0" * 64, 1))
        with pytest.raises(BaseMismatchError, match="far@1 was trained on 'far'"):
            asked.resolve("far")


class TestRows:
    def test_fewer_rows_are_drawn_by_the_seed_and_are_among_more(self, support: AdapterStore) -> None:
        parts = [evaluation(support, rows=count).tasks[0].rows for count in (3, 7, 7, 99)]
        assert [len(part) for part in parts] == [3, 7, 7, 16]
        assert set(parts[0].ids) < set(parts[1].ids)
        assert parts[1] == parts[2]
        assert [row for row in parts[3].ids if row in parts[1].ids] == list(parts[1].ids)
        assert set(parts[0].columns) == {"channel", "lang"}

    def test_at_least_one(self, support: AdapterStore) -> None:
        with pytest.raises(UsageError, match="rows is 0; it must be at least 1"):
            evaluation(support, rows=0)


class TestNothingTwice:
    def test_what_the_sequence_measured_is_known(self, support: AdapterStore, counted: list[str]) -> None:
        asked = evaluation(support)
        cells = {
            s.task: s.value
            for s in support.scores(way="sequential")
            if s.step == 1 and s.protocol == "task_aware"
        }
        assert {task.name: asked.score(BOTH, task) for task in asked.tasks} == cells
        assert counted == []

    def test_a_score_is_written_once_and_known_to_the_next(
        self, support: AdapterStore, counted: list[str]
    ) -> None:
        register(support, "noisy", noisy(support.load(BOTH)), BOTH)
        before = support.scores()
        asked = evaluation(support)
        values = [asked.score("noisy", task) for task in asked.tasks]
        assert counted == ["noisy@1", "noisy@1"]
        new = support.scores()[len(before) :]
        assert [(s.task, s.value, s.n, s.copied) for s in new] == [
            (task.name, value, 16, False) for task, value in zip(asked.tasks, values, strict=True)
        ]
        run = support.run(new[0].run)
        assert run.name.startswith("evaluation-")
        assert (run.status, [task.name for task in run.tasks]) == ("finished", ["billing", "travel"])
        again = evaluation(support)
        assert [again.score("noisy", task) for task in again.tasks] == values
        assert len(counted) == 2
        assert [again.correct("noisy", task) for task in again.tasks]
        assert support.scores() == before + new

    def test_rows_are_answered_once_a_session(self, support: AdapterStore, counted: list[str]) -> None:
        asked = evaluation(support)
        for _ in range(3):
            asked.correct(BOTH, asked.tasks[0])
        assert counted == [BOTH]

    def test_equal_versions_under_other_names_are_one(
        self, support: AdapterStore, counted: list[str]
    ) -> None:
        register(support, "copy", support.load(BOTH), BOTH)
        asked = evaluation(support)
        asked.correct(BOTH, asked.tasks[0])
        asked.correct("copy", asked.tasks[0])
        assert counted == [BOTH]


class TestGuests:
    def test_a_guest_is_measured_as_what_it_becomes(self, support: AdapterStore, counted: list[str]) -> None:
        state = noisy(headless(support.load(BILLING)))
        asked = evaluation(support)
        with asked.guest(state, (BILLING, TRAVEL)) as ref:
            values = [asked.score(ref, task) for task in asked.tasks]
        assert len(counted) == 2
        register(support, "fused", state, BILLING, TRAVEL, fused=True)
        fresh = evaluation(support)
        assert [fresh.score("fused", task) for task in fresh.tasks] == values
        assert len(counted) == 2

    def test_it_is_gone_afterwards(self, support: AdapterStore) -> None:
        asked = evaluation(support)
        with asked.guest(support.load(BOTH), (BOTH,)) as ref:
            assert asked.labels(ref, asked.tasks[0]) == asked.labels(BOTH, asked.tasks[0])
        with pytest.raises(SpecError):
            asked.answers(ref, asked.tasks[0])
