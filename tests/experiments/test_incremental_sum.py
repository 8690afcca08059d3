"""A sequence whose adapters stand over all earlier ones: killed, gone on with, measured."""

from __future__ import annotations

from pathlib import Path

from sequence_files import EXPERIMENT, kill_after, outcome, run_to_end, write_experiment

from contpeft.spec import Parent, Sum
from contpeft.store import AdapterStore

TEXT = EXPERIMENT.replace("[frozen, sequential, isolated, joint]", "[incremental-sum]").replace(
    ", talk.politics.guns, comp.graphics", ""
)


def test_a_killed_run_ends_as_a_straight_one(tmp_path: Path) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    for folder in (straight, killed):
        folder.mkdir()
        write_experiment(folder, TEXT)
    run_to_end(straight / "mini.yaml")
    kill_after(killed / "mini.yaml", "incremental-sum: task-2 (2 of 2), training, epoch 1", 0.1)
    run_to_end(killed / "mini.yaml")
    assert outcome(killed / "adapters", "mini") == outcome(straight / "adapters", "mini")
    store = AdapterStore(killed / "adapters")
    one, two = (f"mini.incremental-sum.task-{k}@1" for k in (1, 2))
    assert store.show(two).parents == (Parent(one, "frozen"),)
    last = store.steps("mini", "incremental-sum")[-1]
    assert last.answers == {"main": Sum(((one, 1.0), (two, 1.0)), two)}
    store.close()
