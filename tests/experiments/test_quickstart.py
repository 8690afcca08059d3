"""The quickstart at full size: what it must show, over seeds and over kills.

Hours on a busy machine, about half an hour on two idle cores: `make acceptance`.
"""

from __future__ import annotations

import random
import shutil
import time
from pathlib import Path

import pytest
import yaml
from sequence_files import kill_after, outcome, run_to_end

from contpeft.experiments import load_experiment
from contpeft.experiments.report import RunResult, collect
from contpeft.store import AdapterStore

pytestmark = pytest.mark.acceptance

QUICKSTART = Path(__file__).parents[2] / "experiments" / "quickstart.yaml"
# What the run says when it is to be killed, and how many seconds later at the latest.
MOMENTS = (
    ("getting ready", 0.5),
    ("training, epoch 1", 1.0),
    ("training, epoch 2", 1.0),
    ("training, epoch 3", 1.0),
    ("measuring", 0.5),
)


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory, commands: Path) -> tuple[AdapterStore, list[RunResult]]:
    """Runs the quickstart with three seeds into one store."""
    folder = tmp_path_factory.mktemp("seeds")
    for seed in ("0", "1", "2"):
        started = time.monotonic()
        print(run_to_end(commands, QUICKSTART, "--seed", seed, folder=folder))
        print(f"seed {seed}: {time.monotonic() - started:.0f} s in all")
    store = AdapterStore(folder / "adapters", create=False)
    return store, [collect(store, name) for name in ("quickstart", "quickstart-seed1", "quickstart-seed2")]


def test_sequential_forgets_with_every_seed(seeds: tuple[AdapterStore, list[RunResult]]) -> None:
    for result in seeds[1]:
        sequential = next(way for way in result.ways if way.way == "sequential").protocols
        assert sequential["all_classes"].summary.bwt is not None
        assert sequential["all_classes"].summary.bwt < -0.4
        assert sequential["task_aware"].summary.bwt is not None
        assert sequential["task_aware"].summary.bwt < -0.01


def test_isolated_keeps_everything_with_every_seed(seeds: tuple[AdapterStore, list[RunResult]]) -> None:
    store, results = seeds
    for result in results:
        isolated = next(way for way in result.ways if way.way == "isolated").protocols
        assert isolated["task_aware"].summary.bwt == 0.0
        assert isolated["task_aware"].summary.forgetting == 0.0
        sequential = next(way for way in result.ways if way.way == "sequential").protocols
        assert isolated["all_classes"].summary.acc is not None
        assert sequential["all_classes"].summary.acc is not None
        assert isolated["all_classes"].summary.acc > sequential["all_classes"].summary.acc + 0.2
        assert len({store.show(row.ref).base.fingerprint for row in result.lineage}) == 1


@pytest.mark.parametrize("way", ["sequential", "isolated"])
def test_a_demo_killed_during_task_3_ends_like_a_straight_one(
    way: str, commands: Path, tmp_path: Path
) -> None:
    document = yaml.safe_load(QUICKSTART.read_text())
    experiment = tmp_path / "demo.yaml"
    experiment.write_text(yaml.safe_dump(document | {"strategies": [way]}))
    straight = tmp_path / "straight"
    run_to_end(commands, experiment, folder=straight)

    # Every killed run begins from a copy of what two tasks had left.
    two_tasks, task = tmp_path / "two-tasks", f"{way}: task-3 (3 of 5)"
    kill_after(commands, experiment, f"{task}, getting ready", 0, folder=two_tasks)
    assert len(AdapterStore(two_tasks / "adapters").steps("quickstart")) == 2

    rng = random.Random(way)
    for kill, (moment, latest) in enumerate(MOMENTS):
        folder = tmp_path / f"kill-{kill}"
        shutil.copytree(two_tasks, folder)
        kill_after(commands, experiment, f"{task}, {moment}", rng.uniform(0, latest), folder=folder)
        assert len(AdapterStore(folder / "adapters").steps("quickstart")) == 2
        run_to_end(commands, experiment, folder=folder)
        assert outcome(folder / "adapters", "quickstart") == outcome(straight / "adapters", "quickstart")


def test_the_quickstart_file_is_what_the_readme_says() -> None:
    experiment = load_experiment(QUICKSTART)
    assert experiment.strategies == ("frozen", "sequential", "isolated", "joint")
    stream = experiment.stream.build(experiment.seed)
    assert [len(data.classes) for data in stream] == [2] * 5
