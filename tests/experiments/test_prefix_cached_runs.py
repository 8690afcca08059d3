"""Runs that keep what the layers below the adapter compute."""

from __future__ import annotations

from pathlib import Path

import pytest
from sequence_files import outcome

from contpeft.digest import json_digest
from contpeft.errors import UsageError
from contpeft.experiments import run_experiment
from contpeft.experiments.config import parse_experiment

DOCUMENT = {
    "name": "mini",
    "stream": {
        "source": {
            "class_path": "Newsgroups",
            "init_args": {"classes": ["sci.space", "sci.med", "rec.autos", "comp.graphics"]},
        },
        "classes_per_task": 2,
        "train_per_class": 6,
        "test_per_class": 6,
    },
    "module": {"init_args": {"max_length": 12, "num_layers": 2}},
    "strategies": ["er"],
    "adapter": {"method": "lora", "r": 4, "layers_to_transform": [1]},
    "trainer": {"max_epochs": 2},
    "batch_size": 6,
    "threads": 1,
}


def run(folder: Path, size: str) -> tuple[object, object]:
    run_experiment(parse_experiment({**DOCUMENT, "prefix_cache": size, "store": str(folder)}))
    return outcome(folder, "mini")


def test_a_run_ends_in_the_same_bits_whatever_is_kept(tmp_path: Path) -> None:
    large = run(tmp_path / "large", "64MB")
    assert run(tmp_path / "small", "40kB") == large
    assert run(tmp_path / "small", "1MB") == large  # finished: nothing is run again


def test_the_size_of_the_cache_is_no_part_of_a_run() -> None:
    def identity(**more: str) -> dict[str, object]:
        return parse_experiment({**DOCUMENT, **more}).identity()

    assert identity(prefix_cache="1MB") == identity(prefix_cache="2MB") != identity()


def test_scores_read_row_by_row_are_kept_apart_from_others() -> None:
    """They are rounded otherwise; what nobody measured that way is not copied from it."""

    def reads(**more: object) -> str:
        return parse_experiment({**DOCUMENT, **more}).reads()

    assert reads(prefix_cache="1MB") == reads(prefix_cache="2MB") != reads()
    module = parse_experiment(DOCUMENT).identity()["module"]
    assert reads() == json_digest(module)  # what was measured without one is found again
    assert reads(module={"init_args": {"max_length": 8}}) != reads()


def test_a_size_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="'much' is no size; write 500MB"):
        parse_experiment({**DOCUMENT, "prefix_cache": "much"})
