"""The comparison over seeds: records are kept, tables and orderings are of them."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy import stats

from contpeft.experiments import Experiment
from contpeft.strategies import RECIPES
from contpeft.strategies.identity import recipe_digest

ROOT = Path(__file__).resolve().parents[2]


def script(name: str) -> ModuleType:
    sys.path.insert(0, str(ROOT / "experiments"))
    try:
        spec = importlib.util.spec_from_file_location(name, ROOT / "experiments" / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    return module


records = script("records")
tables = script("tables")
compare = script("compare")
tune = script("tune")
orderings = script("orderings")


def record(way: str, seed: int, acc: float, **keys: Any) -> Any:
    told = dict(
        stream="s",
        scenario="class-incremental",
        answer="main",
        protocol="all_classes",
        recipe="r",
        settings="x",
    )
    numbers = {"acc": acc, "bwt": -0.1, "forgetting": 0.1, "learning_accuracy": None}
    sizes = dict(seconds=10.0, parameters=100.0, bytes=4000.0)
    return records.Record(**{**told, **sizes, "way": way, "seed": seed, "numbers": numbers, **keys})


def test_records_are_kept_and_replaced(tmp_path: Path) -> None:
    results = records.Results(tmp_path / "s.json")
    results.add([record("a", 0, 0.5), record("b", 0, 0.6)])
    results.add([record("a", 0, 0.7, recipe="new")])
    again = records.Results(tmp_path / "s.json")
    assert [(each.way, each.numbers["acc"]) for each in again.records] == [("a", 0.7), ("b", 0.6)]
    assert again.has("a", 0, "new", "x")
    assert not again.has("a", 0, "r", "x")
    assert not again.has("a", 1, "new", "x")
    assert not again.has("a", 0, "new", "y")


def test_what_was_measured_otherwise_is_taken_out(tmp_path: Path) -> None:
    results = records.Results(tmp_path / "s.json")
    results.add([record("a", 0, 0.5), record("a", 1, 0.5, settings="y"), record("b", 0, 0.6)])
    assert results.retain({"a": ("r", "x"), "b": ("r", "x")}) == {"a"}
    assert [(each.way, each.seed) for each in results.records] == [("a", 0), ("b", 0)]
    assert results.retain({"a": ("other", "x"), "b": ("r", "x")}) == {"a"}
    assert results.retain({"b": ("r", "x")}) == set()
    assert records.Results(tmp_path / "s.json").records == results.records == [record("b", 0, 0.6)]


def test_records_outlive_a_write_that_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = records.Results(tmp_path / "s.json")
    results.add([record("a", 0, 0.5)])
    write = Path.write_text

    def cut(path: Path, text: str) -> int:
        write(path, text[: len(text) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", cut)
    with pytest.raises(KeyboardInterrupt):
        results.add([record("b", 0, 0.6)])
    assert [each.way for each in records.Results(tmp_path / "s.json").records] == ["a"]


def test_intervals_are_students(tmp_path: Path) -> None:
    values = [0.5, 0.6, 0.8]
    mean, half = tables.interval(values)
    low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert (mean - half, mean + half) == pytest.approx((low, high))
    assert tables.interval([0.5]) == (0.5, None)


def test_a_page_has_a_row_a_way_in_the_files_order(tmp_path: Path) -> None:
    results = records.Results(tmp_path / "s.json")
    results.add([record("a", seed, 0.5) for seed in (0, 1)] + [record("b", seed, 0.6) for seed in (0, 1)])
    results.add([record("b", 2, 0.9, protocol="task_aware", rate=0.3)])
    results.add([record("sequential", seed, 0.4, seconds=4.0 + 4 * seed) for seed in (0, 1)])
    tables.write_page(results, ["b", "a"])
    lines = (tmp_path / "s.md").read_text().splitlines()
    assert lines[0] == "**all_classes**, seeds 0, 1"
    assert lines[4] == "| b | 60.0 ± 0.0 | -10.0 ± 0.0 | 10.0 ± 0.0 | - | - | 100 | 4 | 10 | 1.88 | 1 |"
    assert [line.split(" | ")[0] for line in lines[4:6]] == ["| b", "| a"]
    assert "**task_aware**, seeds 2" in lines
    assert lines[-1].endswith("| 0.3 |")


def test_an_asserted_ordering_that_fails_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    records.Results(tmp_path / "s.json").add(
        [
            record("a", 0, 0.5),
            record("a", 1, 0.7),
            record("b", 0, 0.6),
            record("b", 1, 0.9),
            record("b", 2, 0.1),
        ]
    )
    rows = (
        orderings.Ordering("b over a", "s", "all_classes", "b", "a", margin=10),
        orderings.Ordering("a over b", "s", "all_classes", "a", "b", asserted=False),
        orderings.Ordering("c over b", "s", "all_classes", "c", "b"),
    )
    monkeypatch.setattr(orderings, "ORDERINGS", rows)
    assert orderings.main(tmp_path) == 0
    assert capsys.readouterr().out.splitlines() == [
        "holds         b over a (s): +15.0 ± 63.5 points, by seed [10.0, 20.0]",
        "does not hold  a over b (s): -15.0 ± 63.5 points, by seed [-10.0, -20.0]",
        "not measured  c over b (s)",
    ]
    monkeypatch.setattr(orderings, "ORDERINGS", (orderings.Ordering("x", "s", "all_classes", "a", "b"),))
    assert orderings.main(tmp_path) == 1
    assert capsys.readouterr().out.startswith("FAILS")


def test_margins_are_of_pairs_with_one_seed(tmp_path: Path) -> None:
    accuracies = {("drift-tokens", 0): 0.8, ("drift-tokens", 1): 0.9, ("joint", 0): 0.7, ("joint", 1): 0.8}
    told = [record(way, seed, acc) for (way, seed), acc in accuracies.items()]
    records.Results(tmp_path / "wordnet.json").add([*told, record("frozen", 1, 0.6, answer="lda")])
    orderings.write_margins(tmp_path)
    lines = (tmp_path / "margins.md").read_text().splitlines()
    assert lines[2:] == ["| `drift-tokens`, wordnet | 10.0 ± 0.0 | - | - | 30.0 | - | - | - | - | 2 |"]


def test_the_packaged_table_has_recipes_as_they_are_today_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "PACKAGED", tmp_path / "packaged.json")
    today = recipe_digest(RECIPES["er"])
    records.Results(tmp_path / "out" / "s.json").add(
        [
            record("er", 0, 0.61239, recipe=today),
            record("er", 1, 0.7, recipe=today),
            record("er", 1, 0.8, recipe=today, protocol="task_aware"),
            record("er-5-percent", 0, 0.9, recipe=today),
            record("derpp", 0, 0.9, recipe="of another time"),
        ]
    )
    compare.write_packaged(tmp_path / "out")
    packaged = json.loads((tmp_path / "packaged.json").read_text())
    assert [(row["way"], row["acc"]) for row in packaged] == [("er", {"0": 0.6124, "1": 0.7})]
    compare.write_packaged(tmp_path / "empty")
    assert json.loads((tmp_path / "packaged.json").read_text()) == []


def write_stream(folder: Path, *ways: str) -> Path:
    """Writes two tasks of two classes of six texts, and a file that learns them."""
    rows = [
        {"text": f"{label} {k}", "label": label, "task": task}
        for task, label in ("ta", "tb", "uc", "ud")
        for k in range(6)
    ]
    (folder / "texts").mkdir()
    for split in ("train", "test"):
        (folder / "texts" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = folder / "s.yaml"
    file.write_text(
        "name: s\nstream:\n  by: task\n"
        "  source: {class_path: LocalFolder, init_args: {path: texts, task: task}}\n"
        "module: {init_args: {max_length: 8, num_layers: 1, learning_rate: 1.0e-3}}\n"
        f"strategies: [{', '.join(ways)}]\nthreads: 1\n"
    )
    return file


def test_what_was_begun_is_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    file = write_stream(tmp_path, "frozen")
    arguments = compare.argparse.Namespace(
        files=[file], seeds=[0], ways=None, store=Path("store"), out=Path("out"), publish=False
    )
    compare.main(arguments)
    first = records.Results(Path("out/s.json")).records
    assert {(each.way, each.answer) for each in first} >= {("frozen", "lda"), ("frozen", "class-means")}
    monkeypatch.setattr(compare, "run_experiment", lambda _: pytest.fail("it was measured again"))
    compare.main(arguments)
    assert records.Results(Path("out/s.json")).records == first
    assert "dropped" not in capsys.readouterr().out
    whole = file.read_text()
    file.write_text(whole.replace("path: texts", "path: nowhere"))
    compare.main(arguments)
    assert records.Results(Path("out/s.json")).records == first
    file.write_text(whole.replace("max_length: 8", "max_length: 9"))
    arguments.ways = ["sequential"]
    compare.main(arguments)
    assert capsys.readouterr().out.endswith("s: what was measured otherwise is dropped: frozen\n")
    assert records.Results(Path("out/s.json")).records == []


def test_rates_are_chosen_on_rows_held_out_and_then_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = write_stream(tmp_path, "frozen", "frozen-heads", "sequential")
    arguments = compare.argparse.Namespace(
        files=[file], seeds=[0], ways=["frozen-heads", "frozen"], store=Path("store"), out=Path("out")
    )
    tune.main(arguments)
    told = json.loads((tmp_path / "tuned.json").read_text())["s"]
    assert list(told) == ["frozen-heads"]
    assert set(told["frozen-heads"]["validation"]) == {"1", "0.3", "3"}
    rows = records.Results(Path("out/tuning/s-rate-3.json")).records
    assert {(each.way, each.rate, each.seed) for each in rows} == {("frozen-heads", 3.0, 0)}
    setting = compare.Setting(file, 0, 3.0, tune.SHARE)
    experiment = setting.experiment(Path("store"))
    assert {each.settings for each in rows} == {setting.digests(experiment)["frozen-heads"][1]}
    held_out = experiment.stream.build(0)
    assert [(len(task.train.labels), len(task.test.labels)) for task in held_out] == [(10, 2), (10, 2)]

    run: list[tuple[str, float, float | None]] = []
    chosen = {"s": {"frozen-heads": {"rate": 3.0}, "sequential": {"rate": 0.3}}}
    (tmp_path / "tuned.json").write_text(json.dumps(chosen))

    def remember(experiment: Experiment, _: object) -> None:
        module, _trainer = experiment.make([])
        run.append((",".join(experiment.recipes), module.learning_rate, experiment.stream.validation))

    monkeypatch.setattr(compare, "run_experiment", remember)
    monkeypatch.setattr(compare, "write_page", lambda *_: None)
    monkeypatch.setattr(compare, "write_picture", lambda *_: None)
    arguments.ways, arguments.publish = None, False
    compare.main(arguments)
    assert run == [("frozen", 1e-3, None), ("frozen-heads", 3e-3, None), ("sequential", 3e-4, None)]


def test_the_best_rate_is_chosen_and_of_equals_the_files_own(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    measured = {
        1.0: {"a": 0.5, "b": 0.7, "c": 1.0},
        0.3: {"a": 0.6, "b": 0.7, "c": 0.0},
        3.0: {"a": 0.4, "b": 0.7},
    }
    tune.write_chosen(file, measured)
    assert compare.tuned_rates(file) == {"a": 0.3, "b": 1.0}
    tune.write_chosen(tmp_path / "other.yaml", {1.0: {"a": 0.5}})
    assert compare.tuned_rates(file) == {"a": 0.3, "b": 1.0}
