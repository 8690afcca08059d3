"""The ways of an experiment: named, changed, swept; the same recipe from begin to end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from sequence_files import EXPERIMENT

from contpeft.errors import ConfigError, NotFoundError, UnsupportedError
from contpeft.experiments import parse_experiment, run_experiment
from contpeft.store import AdapterStore
from contpeft.strategies import FromLast, Recipe, find_recipe, recipe_digest


def document(folder: Path, **keys: Any) -> dict[str, Any]:
    told = yaml.safe_load(EXPERIMENT.replace(", talk.politics.guns, comp.graphics", ""))
    return told | {"store": str(folder / "adapters"), "report": str(folder / "reports")} | keys


def test_ways_are_names_changes_and_sweeps(tmp_path: Path) -> None:
    slow = {"slow": {"recipe": "sequential", "projection": {"part": "Slow", "factor": {"each": [0.1, 1]}}}}
    experiment = parse_experiment(document(tmp_path, strategies=["frozen", slow]))
    assert experiment.strategies == ("frozen", "slow-0.1", "slow-1")
    assert experiment.recipes["slow-0.1"].init == FromLast()
    assert experiment.only("slow-1").strategies == ("slow-1",)
    with pytest.raises(NotFoundError, match=r"^experiment 'mini' has no way 'slw-1'; did you mean 'slow-1'"):
        experiment.only("slw-1")


def test_a_way_whose_recipe_has_changed_is_refused(tmp_path: Path) -> None:
    first = document(
        tmp_path, strategies=["frozen", {"mine": {"recipe": "frozen-heads", "head": {"scale": 5}}}]
    )
    run_experiment(parse_experiment(first))
    store = AdapterStore(tmp_path / "adapters", create=False)
    told = {step.way: step.detail["recipe"] for step in store.steps("mini")}
    assert told["frozen"] == recipe_digest(find_recipe("frozen"))
    run_experiment(parse_experiment(first))  # the same goes through, and does nothing
    assert len(store.steps("mini")) == 4
    changed = document(tmp_path, strategies=[{"mine": {"recipe": "frozen-heads", "head": {"scale": 6}}}])
    message = "^way 'mine' of run 'mini' was begun with another recipe; give the changed one another name$"
    with pytest.raises(ConfigError, match=message):
        run_experiment(parse_experiment(changed))
    store.close()


def test_a_way_that_cannot_serve_the_stream_is_refused_before_anything_is_learnt(tmp_path: Path) -> None:
    experiment = parse_experiment(document(tmp_path, strategies=["frozen"]))
    only = replace(find_recipe("frozen"), serves=frozenset({"task-incremental"}))
    with pytest.raises(UnsupportedError, match=r"^strategy 'mine' cannot serve a class-incremental stream"):
        run_experiment(replace(experiment, recipes={"mine": only, "other": Recipe()}))
    assert not (tmp_path / "adapters").exists()
