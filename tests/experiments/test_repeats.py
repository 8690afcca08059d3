"""Ways that train the same adapters train them once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import yaml
from search_files import write_sequence

from contpeft.callbacks import ContinualAdapter
from contpeft.experiments import parse_experiment, run_experiment
from contpeft.store import AdapterStore

WAYS: dict[str, Any] = {
    "isolated": None,
    "isolated-soft": None,
    "merge-average": None,
    "merge-opcm": None,
    "sequential-local": None,
    "fisher": {"recipe": "ewc", "penalty": None},  # its end asks the head in train mode
    "sd-lora": None,
    "sd-lora-again": {"recipe": "sd-lora"},
    "slca": None,
}


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ways that were trained, once a task."""
    trained: list[str] = []
    plain = ContinualAdapter.on_train_start

    def counted(self: ContinualAdapter, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trained.append(self.context.line.removeprefix("tiny."))
        plain(self, trainer, pl_module)

    monkeypatch.setattr(ContinualAdapter, "on_train_start", counted)
    return trained


def run(folder: Path, *ways: str, **keys: Any) -> AdapterStore:
    folder.mkdir()
    document = yaml.safe_load(write_sequence(folder).read_text())
    strategies = [way if WAYS.get(way) is None else {way: WAYS[way]} for way in ways]
    run_experiment(parse_experiment(document | {"strategies": strategies} | keys))
    return AdapterStore(folder / "adapters", create=False)


def told(store: AdapterStore, way: str) -> tuple[object, object]:
    """Returns what a way measured and registered."""
    scores = {
        (s.answer, s.kind, s.step, s.task, s.protocol, s.metric): (s.value, s.composition)
        for s in store.scores(run="tiny")
        if s.way == way
    }
    versions = {
        (v.ref, v.fingerprint, tuple(p.ref for p in v.parents))
        for step in store.steps("tiny", way)
        for v in map(store.show, step.versions)
    }
    return scores, versions


def test_each_way_ends_as_if_it_were_alone(tmp_path: Path, fits: list[str]) -> None:
    together = run(tmp_path / "together", *WAYS)
    shared = {way: fits.count(way) for way in WAYS}
    fits.clear()
    for way in WAYS:
        alone = run(tmp_path / way, way)
        assert told(alone, way) == told(together, way), way
        alone.close()
    tasks = fits.count("isolated")
    assert tasks > 1
    assert {way: fits.count(way) for way in WAYS} == dict.fromkeys(WAYS, tasks)
    again = {"isolated-soft", "merge-opcm", "fisher", "sd-lora-again"}
    assert shared == {way: 0 if way in again else tasks for way in WAYS}


def test_a_method_that_prunes_is_trained_each_time(tmp_path: Path, fits: list[str]) -> None:
    adapter = {"method": "adalora", "init_r": 6, "target_r": 3, "tinit": 1, "tfinal": 1}
    store = run(tmp_path / "store", "isolated", "isolated-prototype", adapter=adapter)
    assert fits.count("isolated-prototype") == fits.count("isolated") > 1
    assert all(not step.detail["fits"] for step in store.steps("tiny"))


def test_what_was_spared_counts_as_time(tmp_path: Path) -> None:
    store = run(tmp_path / "store", "isolated", "isolated-soft")
    spent, spared = (store.steps("tiny", way) for way in ("isolated", "isolated-soft"))
    for one, other in zip(spent, spared, strict=True):
        trained = store.show(one.versions[0])
        assert store.show(other.versions[0]).seconds == trained.seconds
        assert other.seconds >= (trained.seconds or 0.0)
        assert one.detail["fits"].keys() == other.detail["fits"].keys()
