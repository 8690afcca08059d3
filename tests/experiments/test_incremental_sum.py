"""A sequence whose adapters stand over all earlier ones."""

from __future__ import annotations

from pathlib import Path

import yaml
from sequence_files import EXPERIMENT

from contpeft.experiments import parse_experiment, run_experiment
from contpeft.spec import Parent, Sum
from contpeft.store import AdapterStore

TEXT = EXPERIMENT.replace(", talk.politics.guns, comp.graphics", "")


def test_each_adapter_is_registered_over_those_before_it_and_they_answer_together(tmp_path: Path) -> None:
    document = yaml.safe_load(TEXT) | {
        "strategies": ["incremental-sum"],
        "store": str(tmp_path / "adapters"),
        "report": str(tmp_path / "reports"),
    }
    run_experiment(parse_experiment(document))
    store = AdapterStore(tmp_path / "adapters")
    one, two = (f"mini.incremental-sum.task-{k}@1" for k in (1, 2))
    assert store.show(two).parents == (Parent(one, "frozen"),)
    first, last = store.steps("mini", "incremental-sum")
    assert first.answers == {"main": Sum(((one, 1.0),), one)}
    assert last.answers == {"main": Sum(((one, 1.0), (two, 1.0)), two)}
    store.close()
