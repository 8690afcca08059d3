"""A sequence whose adapters are merged after each task, from the file to the report."""

from __future__ import annotations

from pathlib import Path

import yaml
from sequence_files import EXPERIMENT

from contpeft.experiments import parse_experiment, run_experiment
from contpeft.experiments.report import collect, stage_table
from contpeft.spec import Parent, Single
from contpeft.store import AdapterStore

TEXT = EXPERIMENT.replace(", talk.politics.guns, comp.graphics", "")


def test_the_merge_answers_and_the_report_says_what_it_did(tmp_path: Path) -> None:
    document = yaml.safe_load(TEXT) | {
        "strategies": ["merge-average-sequential"],
        "store": str(tmp_path / "adapters"),
        "report": str(tmp_path / "reports"),
    }
    run_experiment(parse_experiment(document))
    store = AdapterStore(tmp_path / "adapters")
    line = "mini.merge-average-sequential"
    merged = store.show(f"{line}.merged@1")
    assert (merged.run, merged.task, merged.origin) == ("mini", "task-2", "fused")
    assert merged.parents == (Parent(f"{line}@1", "fused", 1.0), Parent(f"{line}@2", "fused", 1.0))
    first, last = store.steps("mini", "merge-average-sequential")
    assert first.answers == {name: Single(f"{line}@1") for name in ("main", "before-merge")}
    assert last.answers == {"main": Single(merged.ref, f"{line}@2"), "before-merge": Single(f"{line}@2")}
    rows = stage_table(collect(store, "mini"), "task_aware").rows
    assert [row[:2] for row in rows] == [
        ["merge-average-sequential", "before merge"],
        ["merge-average-sequential", "at the end"],
    ]
    store.close()
