"""Recipes of two stages, and pools, in a real sequence: what is run, measured and taken up again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from sequence_files import EXPERIMENT, outcome

from contpeft.experiments import Progress, parse_experiment, run_experiment
from contpeft.store import AdapterStore

WAYS = ["fusion-task-agnostic", "dualprompt"]


class StopError(Exception):
    """Stands for a kill."""


def experiment(folder: Path) -> Any:
    document = yaml.safe_load(EXPERIMENT)
    classes = document["stream"]["source"]["init_args"]["classes"]
    document["stream"]["source"]["init_args"]["classes"] = classes[:4]
    folders = {"store": str(folder / "adapters"), "report": str(folder / "reports")}
    return parse_experiment(document | folders | {"strategies": WAYS})


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Progress]]:
    folder, told = tmp_path_factory.mktemp("straight"), []
    run_experiment(experiment(folder), told.append)
    return folder, told


def test_both_stages_are_registered_and_the_second_answers(straight: tuple[Path, list[Progress]]) -> None:
    store = AdapterStore(straight[0] / "adapters", create=False)
    fused, pools = (store.steps("mini", way) for way in WAYS)
    way = "mini.fusion-task-agnostic"
    assert [step.versions for step in fused] == [
        (f"{way}.task-1@1",),
        (f"{way}.task-2@1", f"{way}.fusion@1"),
    ]
    assert [str(step.answers["main"]) for step in fused] == [f"{way}.task-1@1", f"{way}.fusion@1"]
    assert [step.versions for step in pools] == [("mini.dualprompt@1",), ("mini.dualprompt@2",)]
    assert len({version.base.fingerprint for version in store.versions()}) == 1
    starts = [(s.way, s.step) for s in store.scores(run="mini") if s.kind == "start"]
    assert sorted(starts) == sorted((way, step) for way in WAYS for step in (0, -1))
    store.close()


def test_batches_of_both_stages_are_counted(straight: tuple[Path, list[Progress]]) -> None:
    trained = [told.done for told in straight[1] if told.phase == "train"]
    assert trained == sorted(set(trained))
    # 2 passes over 2 batches; two tasks each, and the second stage of one.
    assert (straight[1][-1].done, straight[1][-1].total) == (20, 20)


@pytest.mark.parametrize("stopped", [18])
def test_a_run_stopped_in_either_stage_ends_like_a_straight_one(
    straight: tuple[Path, list[Progress]], tmp_path: Path, stopped: int
) -> None:
    def stop(told: Progress) -> None:
        if told.phase == "train" and told.done >= stopped:
            raise StopError

    with pytest.raises(StopError):
        run_experiment(experiment(tmp_path), stop)
    run_experiment(experiment(tmp_path))
    assert outcome(tmp_path / "adapters", "mini") == outcome(straight[0] / "adapters", "mini")
