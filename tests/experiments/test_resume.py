"""A sequence that is killed goes on and ends as one that was not."""

from __future__ import annotations

import random
from contextlib import closing
from pathlib import Path

import pytest
from search_files import WORDS, write_sequence
from sequence_files import EXPERIMENT, kill_after, outcome, run_to_end, write_experiment

from contpeft.experiments import load_experiment, run_experiment
from contpeft.store import AdapterStore

THREE_TASKS = WORDS | {"e": "pen ink", "f": "sea bay"}
# Each kill comes a little after the run has said this, and the next run gets further. A later epoch of so
# short a fit may go untold.
MOMENTS = (
    "sequential: task-2 (2 of 3), training, epoch 1",
    "sequential: task-3 (3 of 3), measuring",
    "isolated: task-3 (3 of 3), training, epoch 1",
)
ALL = ["frozen", "sequential", "isolated", "joint"]


def test_a_run_killed_again_and_again_ends_like_a_straight_one(commands: Path, tmp_path: Path) -> None:
    straight, killed, rng = tmp_path / "straight", tmp_path / "killed", random.Random(0)
    for folder in (straight, killed):
        folder.mkdir()
        write_sequence(folder, words=THREE_TASKS, epochs=2)
    for moment in MOMENTS:
        kill_after(commands, killed / "tiny.yaml", moment, rng.uniform(0, 0.1))
    for folder in (straight, killed):
        run_experiment(load_experiment(folder / "tiny.yaml", {"strategies": ALL}))
    assert outcome(killed / "adapters", "tiny") == outcome(straight / "adapters", "tiny")
    with closing(AdapterStore(killed / "adapters")) as store:
        assert store.run("tiny").status == "finished"
        assert len(store.steps("tiny")) == 3 + 3 + 3 + 1


@pytest.mark.acceptance
def test_a_method_that_works_around_steps_goes_on_too(commands: Path, tmp_path: Path) -> None:
    text = EXPERIMENT.replace("[frozen, sequential, isolated, joint]", "[sequential]")
    text = text.replace(", talk.politics.guns, comp.graphics", "")
    text += "adapter: {method: adalora, init_r: 4, target_r: 2}\n"
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    for folder in (straight, killed):
        folder.mkdir()
        write_experiment(folder, text)
    run_to_end(commands, straight / "mini.yaml")
    kill_after(commands, killed / "mini.yaml", "sequential: task-2 (2 of 2), training, epoch 1", 0.1)
    run_to_end(commands, killed / "mini.yaml")
    assert outcome(killed / "adapters", "mini") == outcome(straight / "adapters", "mini")
    store = AdapterStore(killed / "adapters")
    assert all(version.config["rank_pattern"] for version in store.versions(run="mini"))
    store.close()
