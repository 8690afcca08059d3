"""How far gates have moved: by hand, and in a real sequence, apart from what the head does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from sequence_files import EXPERIMENT, outcome

from contpeft.experiments import Progress, parse_experiment, run_experiment
from contpeft.experiments.gate_drift import GATES_OF_THEN, GateHistory, moved
from contpeft.experiments.report import collect, gate_table, stage_table
from contpeft.spec import Gated, Single
from contpeft.store import AdapterStore, Step

WAY = "gainlora-unprojected"


def test_weights_of_adapters_that_came_later_were_nothing_then() -> None:
    then, now = torch.tensor([[0.5, 0.1], [0.2, 0.0]]), torch.tensor([[0.3, 0.2, 0.4], [0.2, 0.0, 0.1]])
    found = moved(then, now)
    assert found == pytest.approx({"earlier": 0.15, "later": 0.25}, abs=1e-7)
    assert moved(now, now) == {"earlier": 0.0, "later": 0.0}


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 9999), before=st.integers(1, 4), after=st.integers(0, 3), rows=st.integers(1, 6))
def test_of_attention_what_later_adapters_get_is_what_earlier_ones_lose(
    seed: int, before: int, after: int, rows: int
) -> None:
    """Where only keys were added: every old weight is scaled by one factor, and weights sum to 1."""
    scores = torch.randn(rows, before + after, generator=torch.Generator().manual_seed(seed))
    found = moved(torch.softmax(scores[:, :before], 1), torch.softmax(scores, 1))
    assert found["earlier"] == pytest.approx(found["later"], abs=1e-6)


def step(index: int, **answers: Any) -> Step:
    return Step("run", "way", index, f"task-{index}", answers, (), 1.0, {}, "")


def test_the_history_is_that_of_ways_with_gates_alone() -> None:
    one, two = Gated(("a@1",)), Gated(("a@1", "b@1"))
    # A step that a run repeats after a kill is not yet finished, later ones are none of its history.
    history = GateHistory.of([step(0, main=one), step(2, main=two)], 1, {"main": two})
    assert history.then == {0: one, 1: two}
    assert GateHistory.of([step(0, main=Single("a@1"))], 1, {"main": two}).then == {}
    assert GateHistory.of([step(0, lda=one)], 1, {"lda": two}).then == {}


class StopError(Exception):
    """Stands for a kill."""


def experiment(folder: Path) -> Any:
    document = yaml.safe_load(EXPERIMENT)
    classes = document["stream"]["source"]["init_args"]["classes"]
    document["stream"]["source"]["init_args"]["classes"] = classes[:4]
    folders = {"store": str(folder / "adapters"), "report": str(folder / "reports")}
    return parse_experiment(document | folders | {"strategies": [WAY]})


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("straight")
    run_experiment(experiment(folder))
    return folder


@pytest.fixture(scope="module")
def store(straight: Path) -> Iterator[AdapterStore]:
    opened = AdapterStore(straight / "adapters", create=False)
    yield opened
    opened.close()


def test_a_run_tells_how_far_gates_have_moved_on_earlier_rows(store: AdapterStore) -> None:
    first, second = store.steps("mini", WAY)
    assert "gate_drift" not in first.detail
    drift = second.detail["gate_drift"]["task-1"]
    assert drift["earlier"] == 0.0  # the first gate is frozen
    assert 0.0 < drift["later"] <= 0.9641
    result = collect(store, "mini")
    moved_by = f"{drift['later']:.3f}"
    assert gate_table(result).rows == [[WAY, "task-1", moved_by, "0.000", moved_by]]
    assert result.to_json()["ways"][0]["gate_drift"] == {"task-1": drift}


def test_with_the_gates_of_then_and_the_task_known_nothing_is_forgotten(store: AdapterStore) -> None:
    ends = [s for s in store.scores(run="mini") if s.protocol == "task_aware" and s.kind == "end"]
    cells = {(s.answer, s.step, s.task): s for s in ends}
    assert cells[GATES_OF_THEN, 1, "task-1"].value == cells["main", 0, "task-1"].value
    assert cells[GATES_OF_THEN, 1, "task-2"].copied
    assert cells[GATES_OF_THEN, 1, "task-2"].value == cells["main", 1, "task-2"].value
    rows = [row[:2] for row in stage_table(collect(store, "mini"), "task_aware").rows]
    assert rows == [[WAY, "before gates moved"], [WAY, "at the end"]]


def test_a_run_that_was_stopped_ends_with_the_same(straight: Path, tmp_path: Path) -> None:
    def stop(at: Progress) -> None:
        if at.task == "task-2" and at.phase == "evaluate":
            raise StopError

    with pytest.raises(StopError):
        run_experiment(experiment(tmp_path), stop)
    run_experiment(experiment(tmp_path))
    assert outcome(tmp_path / "adapters", "mini") == outcome(straight / "adapters", "mini")
