"""A sequence that is killed goes on and ends as one that was not."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from sequence_files import EXPERIMENT, kill_after, outcome, run_to_end, write_experiment

from contpeft.store import AdapterStore

# Each kill comes a little after the run has said this, and the next run gets further.
MOMENTS = (
    "sequential: task-2 (2 of 3), training, epoch 1",
    "sequential: task-2 (2 of 3), measuring",
    "isolated: task-3 (3 of 3), training, epoch 2",
)


def test_a_run_killed_again_and_again_ends_like_a_straight_one(
    finished: tuple[Path, str], tmp_path: Path
) -> None:
    experiment, rng = write_experiment(tmp_path), random.Random(0)
    for moment in MOMENTS:
        kill_after(experiment, moment, rng.uniform(0, 0.3))
    run_to_end(experiment)
    assert outcome(tmp_path / "adapters", "mini") == outcome(finished[0] / "adapters", "mini")
    assert AdapterStore(tmp_path / "adapters").run("mini").status == "finished"


def test_a_second_call_trains_nothing_and_reports_the_same(finished: tuple[Path, str]) -> None:
    folder, printed = finished
    store, summary = folder / "adapters", folder / "reports" / "mini" / "summary.json"
    before, told = outcome(store, "mini"), summary.read_bytes()
    assert run_to_end(folder / "mini.yaml") == printed
    assert outcome(store, "mini") == before
    assert summary.read_bytes() == told


@pytest.mark.acceptance
def test_a_method_that_works_around_steps_goes_on_too(tmp_path: Path) -> None:
    text = EXPERIMENT.replace("[frozen, sequential, isolated, joint]", "[sequential]")
    text = text.replace(", talk.politics.guns, comp.graphics", "")
    text += "adapter: {method: adalora, init_r: 4, target_r: 2}\n"
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    for folder in (straight, killed):
        folder.mkdir()
        write_experiment(folder, text)
    run_to_end(straight / "mini.yaml")
    kill_after(killed / "mini.yaml", "sequential: task-2 (2 of 2), training, epoch 1", 0.1)
    run_to_end(killed / "mini.yaml")
    assert outcome(killed / "adapters", "mini") == outcome(straight / "adapters", "mini")
    store = AdapterStore(killed / "adapters")
    assert all(version.config["rank_pattern"] for version in store.versions(run="mini"))
    store.close()
