"""Ways that train the same adapters train them once."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as L
import pytest
import yaml
from sequence_files import EXPERIMENT

from contpeft.callbacks import ContinualAdapter
from contpeft.experiments import parse_experiment, run_experiment
from contpeft.store import AdapterStore

WAYS = ("isolated", "isolated-soft", "merge-average", "merge-opcm", "slca")


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tasks that were trained, in order."""
    trained: list[str] = []
    plain = ContinualAdapter.on_train_start

    def counted(self: ContinualAdapter, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trained.append(self.context.line)
        plain(self, trainer, pl_module)

    monkeypatch.setattr(ContinualAdapter, "on_train_start", counted)
    return trained


def run(folder: Path, *ways: str) -> AdapterStore:
    document = yaml.safe_load(EXPERIMENT) | {"store": str(folder), "strategies": list(ways)}
    document["stream"]["source"]["init_args"]["classes"] = [
        "sci.space",
        "sci.med",
        "rec.autos",
        "misc.forsale",
    ]
    document["trainer"]["max_epochs"] = 1
    run_experiment(parse_experiment(document))
    return AdapterStore(folder, create=False)


def told(store: AdapterStore, way: str) -> tuple[object, object]:
    """Returns what a way measured and registered."""
    scores = {
        (s.answer, s.kind, s.step, s.task, s.protocol, s.metric): (s.value, s.composition)
        for s in store.scores(run="mini")
        if s.way == way
    }
    versions = {
        (v.ref, v.fingerprint, tuple(p.ref for p in v.parents))
        for step in store.steps("mini", way)
        for v in map(store.show, step.versions)
    }
    return scores, versions


def test_each_way_ends_as_if_it_were_alone(tmp_path: Path, fits: list[str]) -> None:
    together = run(tmp_path / "together", *WAYS)
    shared = [line.removeprefix("mini.") for line in fits]
    fits.clear()
    for way in WAYS:
        alone = run(tmp_path / way, way)
        assert told(alone, way) == told(together, way), way
    assert [fits.count(f"mini.{way}") for way in WAYS] == [2, 2, 2, 2, 2]
    assert [shared.count(way) for way in WAYS] == [2, 0, 2, 0, 2]


def test_what_was_spared_counts_as_time(tmp_path: Path) -> None:
    store = run(tmp_path / "store", "isolated", "isolated-prototype")
    spent, spared = (store.steps("mini", way) for way in ("isolated", "isolated-prototype"))
    for one, other in zip(spent, spared, strict=True):
        trained = store.show(one.versions[0])
        assert store.show(other.versions[0]).seconds == trained.seconds
        assert other.seconds >= (trained.seconds or 0.0)
        assert one.detail["fits"].keys() == other.detail["fits"].keys()
