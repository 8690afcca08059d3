"""Lineage, differences, bytes and SQL: what a store tells about itself."""

from __future__ import annotations

import math
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import torch
from store_workers import BASE, make_state

from contpeft.errors import IntegrityError, UsageError
from contpeft.metrics import Matrix, summarise
from contpeft.spec import AdapterState, HeadSpec, Parent, Score, Task
from contpeft.store import AdapterStore, Branch, Change, LineUsage, ScoreChange, TensorChange


@pytest.fixture
def family(store: AdapterStore) -> AdapterStore:
    """a@1 -> a@2 -> a@3, a@2 and b@1 fused to ab@1, and c@1 from a@1 and ab@1."""
    store.register("a", make_state(1), base=BASE)
    store.register("a", make_state(2), base=BASE, parents=[Parent("a@1")])
    store.register("a", make_state(3), base=BASE, parents=[Parent("a@2")])
    store.register("b", make_state(4), base=BASE)
    both = [Parent("a@2", "fused", 0.25), Parent("b@1", "fused", 0.75)]
    store.register("ab", make_state(5), base=BASE, origin="fused", recipe={"rule": "sum"}, parents=both)
    store.register(
        "c", make_state(6), base=BASE, parents=[Parent("ab@1", "distilled"), Parent("a@1", "frozen")]
    )
    return store


def drawn(branches: list[Branch]) -> list[str]:
    return [
        "  " * b.depth
        + b.ref
        + (f" {b.role}" if b.role else "")
        + (f" {b.weight}" if b.weight else "")
        + (" ..." if b.repeated else "")
        for b in branches
    ]


def test_what_was_made_from_a_version(family: AdapterStore) -> None:
    assert drawn(family.inspect.tree("a@1")) == [
        "a@1",
        "  a@2 continued",
        "    a@3 continued",
        "    ab@1 fused 0.25",
        "      c@1 distilled",
        "  c@1 frozen",
    ]
    assert drawn(family.inspect.tree("c")) == ["c@1"]


def test_what_a_version_was_made_from(family: AdapterStore) -> None:
    assert drawn(family.inspect.tree("c", parents=True)) == [
        "c@1",
        "  ab@1 distilled",
        "    a@2 fused 0.25",
        "      a@1 continued",
        "    b@1 fused 0.75",
        "  a@1 frozen",
    ]


def test_the_whole_forest_writes_a_repeated_branch_once(family: AdapterStore) -> None:
    assert drawn(family.inspect.tree()) == [
        "a@1",
        "  a@2 continued",
        "    a@3 continued",
        "    ab@1 fused 0.25",
        "      c@1 distilled",
        "  c@1 frozen",
        "b@1",
        "  ab@1 fused 0.75 ...",
    ]


def test_a_long_line_is_no_recursion(store: AdapterStore) -> None:
    store.register("a", make_state(0), base=BASE)
    copied = "adapter_id, kind, sha256, fingerprint, parameters, config, base_id, origin, environment"
    with store._db.write() as connection:
        for n in range(2, 1502):
            connection.execute(
                f"INSERT INTO version (n, identity, uid, {copied}) "
                f"SELECT ?1, 'i' || ?1, 'u' || ?1, {copied} FROM version WHERE id = 1",
                (n,),
            )
            connection.execute("INSERT INTO parent VALUES (?, 0, ?, 'continued', NULL)", (n, n - 1))
    assert [branch.depth for branch in store.inspect.tree("a@1")] == list(range(1501))


def test_doubled_paths_are_not_walked_twice(store: AdapterStore) -> None:
    store.register("a", make_state(0), base=BASE)
    for n in range(1, 30):
        parents = [Parent(f"a@{n}", "continued"), Parent(f"a@{n}", "frozen")]
        store.register("a", make_state(n), base=BASE, parents=parents)
    assert len(store.inspect.tree("a@1")) == 1 + 2 * 29


def test_diff(filled: AdapterStore) -> None:
    a, b = filled.load("a@1").tensors, filled.load("a@2").tensors
    found = filled.inspect.diff("a@1", "a@champion")
    assert (found.before, found.after) == ("a@1", "a@2")
    assert found.fields == (Change("data", "d0", "d1"), Change("task", "one", "sci.space"))
    for change, name in zip(found.tensors, sorted(a), strict=True):
        norm = math.sqrt(sum(float(x) ** 2 for x in (b[name].double() - a[name].double()).flatten()))
        length = math.sqrt(sum(float(x) ** 2 for x in a[name].double().flatten()))
        assert (change.name, change.shapes) == (name, (tuple(a[name].shape), tuple(b[name].shape)))
        assert (change.norm, change.relative) == (pytest.approx(norm), pytest.approx(norm / length))
    assert found.scores[:2] == (
        ScoreChange("main", "one", "task_aware", "accuracy", 0.9, 0.8),
        ScoreChange("main", "sci.space", "task_aware", "accuracy", 0.1, 1.0),
    )


def test_diff_of_different_shapes_heads_and_configs(store: AdapterStore) -> None:
    same, zero = torch.ones(2), torch.zeros(2)
    head = HeadSpec("linear", ("no", "yes"))
    before = AdapterState(
        "lora", {"r": 2, "x": [1, 2]}, {"s": same, "z": zero, "q": torch.ones(2, 4), "o": same}
    )
    after = AdapterState(
        "dora", {"r": 4, "x": [1]}, {"s": same, "z": same, "q": torch.ones(4, 4), "head.w": same}, head
    )
    store.register("a", before, base=BASE)
    store.register("a", after, base=BASE)
    found = store.inspect.diff("a@1", "a@2")
    assert found.fields == (
        Change("config.r", 2, 4),
        Change("config.x.1", 2, None),
        Change("head", None, head.to_json()),
        Change("kind", "lora", "dora"),
    )
    assert found.tensors == (
        TensorChange("head.w", (None, (2,)), None, None),
        TensorChange("o", ((2,), None), None, None),
        TensorChange("q", ((2, 4), (4, 4)), None, None),
        TensorChange("z", ((2,), (2,)), pytest.approx(math.sqrt(2)), None),
    )
    assert store.inspect.diff("a@1", "a@1").tensors == ()
    assert store.inspect.diff("a@1", "a@1").fields == ()


def test_diff_refuses_damage(family: AdapterStore) -> None:
    family._blobs.path(family.show("a@2").sha256).unlink()
    with pytest.raises(IntegrityError, match="version 'a@2'"):
        family.inspect.diff("a@1", "a@2")


def test_usage(store: AdapterStore) -> None:
    for name, seed in (("a", 1), ("a", 2), ("b", 1), ("c", 3)):
        store.register(name, make_state(seed), base=BASE)
    store.register("a", make_state(1), base=BASE, parents=[Parent("a@2")])
    size = store.show("a").bytes
    store.register("big", make_state(4, rows=100), base=BASE)
    store.upkeep.remove(["c"])
    usage = store.inspect.usage()
    big = store.show("big").bytes
    assert usage.lines == (
        LineUsage("big", 1, big, 0),
        LineUsage("a", 3, 2 * size, size),
        LineUsage("b", 1, size, size),
    )
    assert (usage.bytes, usage.orphans, usage.quarantine) == (2 * size + big, size, 0)
    store.close()
    assert usage.catalogue == (store.path / "store.db").stat().st_size


def test_scores_of_a_version(filled: AdapterStore) -> None:
    assert [(s.step, s.task, s.metric) for s in filled.inspect.scores("a@2")] == [
        (1, "one", "accuracy"),
        (1, "sci.space", "accuracy"),
        (1, "one", "accuracy"),
        (1, "one", "loss"),
    ]
    assert filled.inspect.scores("b") == []


def test_query(filled: AdapterStore) -> None:
    answer = filled.inspect.query("SELECT ref, accuracy FROM version_list WHERE accuracy > 0.5 ORDER BY ref")
    assert answer.columns == ("ref", "accuracy")
    assert answer.rows == (("a@1", 0.9), ("a@2", 0.9))
    assert answer.to_json()[0] == {"ref": "a@1", "accuracy": 0.9}
    assert filled.inspect.query("SELECT 1 WHERE 0").rows == ()


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("DELETE FROM tag", "attempt to write a readonly database"),
        ("CREATE TABLE x (y)", "attempt to write a readonly database"),
        ("SELECT * FROM nobody", "no such table: nobody"),
        ("SELEC 1", "syntax error"),
        ("SELECT 1; SELECT 2", "one statement at a time"),
        ("ATTACH '{}/other.db' AS other", "it reaches for other files"),
        ("VACUUM INTO '{}/copy.db'", "cannot run this query"),
        ("", "no answer; ask with SELECT"),
        ("PRAGMA query_only = OFF", "no answer; ask with SELECT"),
    ],
)
def test_queries_change_nothing(filled: AdapterStore, tmp_path: Path, sql: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        filled.inspect.query(sql.format(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    assert len(filled.tags.of()) == 2


def test_the_views_are_as_documented(filled: AdapterStore) -> None:
    def columns(view: str) -> tuple[str, ...]:
        return filled.inspect.query(f"SELECT * FROM {view}").columns

    text = (Path(__file__).parents[2] / "docs" / "store.md").read_text()
    for view in ("version_list", "version_score", "matrix", "forgetting", "lineage"):
        (row,) = [line for line in text.splitlines() if line.startswith(f"| `{view}` |")]
        assert tuple(part for part in row.split("|")[3].split("`")[1::2]) == columns(view)


@pytest.mark.parametrize("lower_is_better", [False, True])
def test_the_view_of_forgetting_is_the_metric(store: AdapterStore, lower_is_better: bool) -> None:
    tasks = [Task(name, (), lower_is_better=lower_is_better) for name in "abcd"]
    store.start_run("demo", config={}, seed=0, tasks=tasks, scenario="task-incremental")
    grid = torch.rand(4, 4, generator=torch.Generator().manual_seed(0)).tolist()
    cells = [(i, task.name, grid[i][j]) for i in range(4) for j, task in enumerate(tasks) if (i, j) != (2, 1)]
    common: dict[str, Any] = {"n": 1, "composition": "c", "data": "d"}
    store.add_scores(
        Score("demo", "w", "main", i, task, "task_aware", "accuracy", value, **common)
        for i, task, value in cells
    )
    rows = store.inspect.query("SELECT task, forgetting FROM forgetting ORDER BY position").rows
    matrix = Matrix.from_cells([task.name for task in tasks], cells)
    assert [task for task, _ in rows] == ["a", "b", "c"]
    mean = sum(value for _, value in rows) / 3
    assert mean == pytest.approx(summarise(matrix, lower_is_better=lower_is_better).forgetting)


def test_views_work_in_other_tools(family: AdapterStore) -> None:
    with sqlite3.connect(family.path / "store.db") as plain:
        plain.execute("PRAGMA trusted_schema = OFF")
        assert plain.execute(
            "SELECT ref, role, weight, parent FROM lineage WHERE ref = 'ab@1'"
        ).fetchall() == [
            ("ab@1", "fused", 0.25, "a@2"),
            ("ab@1", "fused", 0.75, "b@1"),
        ]
    plain.close()
