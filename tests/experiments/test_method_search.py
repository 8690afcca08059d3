"""Searching methods: what is tried, on which rows, what is kept, and that a killed one goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from search_files import kill_search, write_sequence

from contpeft.errors import ConfigError, ContpeftError, NotFoundError, UsageError
from contpeft.experiments import run_experiment
from contpeft.experiments.config import load_experiment, read_document
from contpeft.experiments.method_search import (
    MethodSearchResult,
    MethodSpace,
    MethodTrial,
    Variants,
    search_methods,
)
from contpeft.spec import AdapterSpec
from contpeft.store import AdapterStore

SPACE = MethodSpace(("lora", "bitfit"), targets=("usual",))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_sequence(tmp_path)


def find(file: Path, space: MethodSpace = SPACE, **options: Any) -> MethodSearchResult:
    asked = {name: options.pop(name) for name in ("strategy", "protocol", "validation") if name in options}
    return search_methods(Variants(read_document(file), **asked), space, **options)


def untimed(result: MethodSearchResult) -> list[MethodTrial]:
    return [replace(trial, seconds=0.0) for trial in result.trials]


class TestTrials:
    def test_every_trial_scores_what_a_run_of_its_settings_scores(self, file: Path, tmp_path: Path) -> None:
        result = find(file, trials=3)
        trial = result.trials[2]
        document = read_document(file)
        document["stream"]["validation"] = 0.25
        document["module"]["init_args"] |= trial.settings()["module"]["init_args"]
        document |= {"adapter": trial.settings()["adapter"], "store": str(tmp_path / "other")}
        (tmp_path / "again.yaml").write_text(json.dumps(document | {"strategies": ["sequential"]}))
        run_experiment(load_experiment(tmp_path / "again.yaml"))
        store = AdapterStore(tmp_path / "other")
        again = [s for s in store.scores() if s.protocol == "task_aware" and s.kind == "end"]
        assert trial.scores == ((again[0].value,), (again[1].value, again[2].value))
        store.close()

    def test_no_test_row_is_read(self, file: Path) -> None:
        result = find(file, trials=1)
        plain = load_experiment(file)
        stream = plain.stream.build(plain.seed)
        train = {row for data in stream for row in data.train.ids}
        validation = replace(plain.stream, validation=0.25).build(plain.seed)
        held = {row for data in validation for row in data.test.ids}
        assert held < train
        assert {row for data in validation for row in data.train.ids} == train - held
        assert result.rows == {data.name: len(data.test) for data in validation}
        assert set(result.rows.values()) == {8}
        store = AdapterStore(plain.store)
        used = {score.data for score in store.scores(run=result.run)}
        assert used == {data.test.digest() for data in validation}
        store.close()

    def test_each_method_begins_in_the_middle_with_the_own_rate(self, file: Path) -> None:
        first, second = find(file, trials=2).trials
        assert first.adapter == AdapterSpec("lora", r=8, alpha=8)  # the scale of the file's adapter
        assert (second.adapter, first.rate, second.rate) == (AdapterSpec("bitfit"), 0.01, 0.01)
        assert first.trained == 2 * 2 * 8 * (16 + 16)

    def test_adapters_are_registered_nowhere_and_their_files_are_gone(self, file: Path) -> None:
        find(file, trials=2)
        store = AdapterStore(file.parent / "adapters")
        assert store.versions() == []
        assert {path.name for path in store.path.iterdir()} >= {"store.db", "blobs"}
        assert not (store.path / "search").exists()
        assert not list((store.path / "blobs").rglob("*.safetensors"))
        store.close()

    def test_a_setting_is_tried_once(self, file: Path) -> None:
        told: list[MethodTrial] = []
        result = find(file, MethodSpace(("bitfit",), ("usual",), rates=None), trials=3, observe=told.append)
        assert len(result.trials) == 3
        assert len(result.ranked) == 1
        assert [trial.state for trial in told] == ["running", *["finished"] * 3]
        store = AdapterStore(file.parent / "adapters")
        assert {step.way for step in store.steps(result.run)} == {"trial-0"}
        store.close()

    def test_a_trial_that_diverges_is_refused_and_passed_over(self, tmp_path: Path) -> None:
        file = write_sequence(tmp_path, fail_above=0.003)
        space = MethodSpace(("lora",), targets=("usual",), rates=(1e-3, 1e-2))
        first = find(file, space, trials=4)
        states = {trial.rate is not None and trial.rate > 0.003: trial.state for trial in first.trials}
        assert states == {True: "refused", False: "finished"}
        assert "not finite" in str(first.ranked[-1].refused) or "NaN" in str(first.ranked[-1].refused)
        assert untimed(find(file, space, trials=4)) == untimed(first)

    def test_joint_has_one_step(self, file: Path) -> None:
        result = find(file, MethodSpace(("bitfit",)), trials=1, strategy="joint")
        assert [len(row) for row in result.trials[0].scores] == [2]


class TestStopping:
    @pytest.mark.parametrize("pruner", ["median", "halving"])
    def test_stopped_trials_were_worse_after_a_task(self, file: Path, pruner: Any) -> None:
        space = replace(SPACE, rates=(1e-5, 1e-1), seed=1)
        result = find(file, space, trials=7, pruner=pruner)
        stopped = [trial for trial in result.trials if trial.state == "stopped"]
        assert stopped
        firsts = [trial.scores[0][0] for trial in result.trials if trial.state == "finished"]
        assert all(trial.scores[0][0] <= max(firsts) and len(trial.scores) == 1 for trial in stopped)
        assert result.best is not None
        assert result.best.state == "finished"

    def test_without_a_pruner_none_is_stopped(self, file: Path) -> None:
        result = find(file, replace(SPACE, rates=(1e-5, 1e-1), seed=1), trials=3, pruner="none")
        assert {trial.state for trial in result.trials} == {"finished"}

    def test_time_that_is_up_begins_no_task(self, file: Path) -> None:
        with pytest.raises(ContpeftError, match="none of 0 trials was finished; give it more time"):
            find(file, trials=2, timeout=0.0)
        assert len(find(file, trials=2).trials) == 2


class TestGoingOn:
    def test_a_search_that_was_killed_ends_like_a_straight_one(self, commands: Path, tmp_path: Path) -> None:
        folders = [tmp_path / "killed", tmp_path / "straight"]
        for folder in folders:
            folder.mkdir()
        file = write_sequence(folders[0])
        options = ("--methods", "lora,bitfit", "--targets", "usual", "--trials", "2")
        kill_search(commands, file, "trial 2 of 2: bitfit, rate 0.01: ", *options)
        store = AdapterStore(file.parent / "adapters")
        (run,) = store.runs()
        assert {step.way for step in store.steps(run.name)} == {"trial-0", "trial-1"}
        assert (store.path / "search" / run.name / "trial-1").exists()
        resumed, straight = find(file, trials=2), find(write_sequence(folders[1]), trials=2)
        assert untimed(resumed) == untimed(straight)
        assert resumed.run == run.name
        assert store.run(run.name).status == "finished"
        assert not (store.path / "search").exists()
        store.close()

    def test_more_trials_go_on_from_fewer_and_nothing_is_run_twice(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        few, many = find(file, trials=2), find(file, trials=4)
        assert many.trials[:2] == few.trials
        assert few.run == many.run

        def refuse(*_: object) -> None:
            raise AssertionError("run again")

        monkeypatch.setattr("contpeft.experiments.method_search.search.run_experiment", refuse)
        assert find(file, trials=4) == many

    def test_another_question_is_another_search(self, file: Path) -> None:
        runs = {
            find(file, trials=1).run,
            find(file, replace(SPACE, seed=1), trials=1).run,
            find(file, replace(SPACE, budget=1000), trials=1).run,
            find(file, trials=1, validation=0.5).run,
            find(file, trials=1, strategy="isolated").run,
        }
        assert len(runs) == 5


class TestRefusals:
    def test_no_trials(self, file: Path) -> None:
        with pytest.raises(UsageError, match="trials is 0; it must be at least 1"):
            find(file, trials=0)

    def test_a_strategy_that_trains_nothing(self, file: Path) -> None:
        with pytest.raises(UsageError, match="strategy 'frozen' trains no adapter; give --strategy"):
            find(file, strategy="frozen")
        with pytest.raises(NotFoundError, match="no strategy 'sequental'; did you mean 'sequential'"):
            find(file, strategy="sequental")

    def test_a_module_without_a_rate_keeps_its_own(self, tmp_path: Path) -> None:
        file = write_sequence(tmp_path, "NoRate")
        with pytest.raises(ConfigError, match="the module has no learning_rate to search"):
            find(file, trials=1)
        assert find(file, replace(SPACE, rates=None), trials=1).trials[0].rate is None

    @pytest.mark.parametrize("share", [0.0, 1.0])
    def test_shares_that_leave_nothing(self, file: Path, share: float) -> None:
        with pytest.raises(ConfigError, match=rf"validation is {share}; it must lie between 0 and 1"):
            find(file, trials=1, validation=share)


class TestResults:
    def trial(self, number: int, *last: float, **options: Any) -> MethodTrial:
        told = {"trained": 10, "share": 0.1, "state": "finished", **options}
        return MethodTrial(number, AdapterSpec("lora", r=number + 1), 0.001, scores=(last,), **told)

    def result(self, *trials: MethodTrial) -> MethodSearchResult:
        return MethodSearchResult("run", "sequential", "task_aware", ("a",), {"a": 4}, trials)

    def test_the_best_finished_has_the_highest_mean_and_of_equals_trains_least(self) -> None:
        trials = (
            self.trial(0, 0.5, 0.7),
            self.trial(1, 0.9, 0.7),
            self.trial(2, 0.8, 0.8, trained=5),
            self.trial(3, 1.0, state="stopped"),
            MethodTrial(4, AdapterSpec("ia3"), None, 1, 0.1, state="refused", refused="no"),
        )
        result = self.result(*trials)
        assert result.best == trials[2]
        assert [trial.number for trial in result.ranked] == [2, 1, 0, 3, 4]
        assert self.result(trials[3]).best is None

    def test_settings_can_be_pasted(self) -> None:
        text = self.trial(3, 0.5).yaml()
        assert text == "adapter: {method: lora, r: 4}\nmodule: {init_args: {learning_rate: 0.001}}\n"
        kept = replace(self.trial(3, 0.5), rate=None)
        assert kept.settings() == {"adapter": {"method": "lora", "r": 4}}
