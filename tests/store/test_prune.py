"""Pruning: every rule alone and together, and what stays whatever the rule."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from store_audit import audit
from store_workers import BASE, make_state

from contpeft.errors import NotFoundError, UsageError
from contpeft.spec import Parent, Score, Task
from contpeft.store import AdapterStore, Metric, Policy, Removed


@pytest.fixture
def lines(store: AdapterStore) -> AdapterStore:
    """a@1 to a@5 and b@1 to b@3, of no run and with no parents."""
    for seed in range(5):
        store.register("a", make_state(seed), base=BASE)
    for seed in range(3):
        store.register("b", make_state(10 + seed), base=BASE)
    return store


def refs(store: AdapterStore) -> list[str]:
    return sorted(version.ref for version in store.versions())


def pruned(store: AdapterStore, **rules: Any) -> list[str]:
    """Returns what a policy would remove, after checking that it then removes just that."""
    options = {key: rules.pop(key) for key in ("name", "everything") if key in rules}
    dry = store.upkeep.prune(Policy(**rules), dry_run=True, **options)
    before = refs(store)
    assert sorted([*dry.removed.refs, *dry.kept]) == before
    assert store.upkeep.prune(Policy(**rules), **options) == dry
    assert refs(store) == sorted(dry.kept)
    assert audit(store.path) == []
    return list(dry.removed.refs)


def test_keep_the_last(lines: AdapterStore) -> None:
    assert pruned(lines, last=2) == ["a@1", "a@2", "a@3", "b@1"]
    assert pruned(lines, last=2) == []


def test_only_one_adapter(lines: AdapterStore) -> None:
    assert pruned(lines, last=1, name="b") == ["b@1", "b@2"]
    with pytest.raises(NotFoundError, match="no adapter 'c'"):
        lines.upkeep.prune(Policy(last=1), "c")


def test_the_last_of_a_line_needs_a_word(lines: AdapterStore) -> None:
    before = refs(lines)
    for dry_run in (True, False):
        with pytest.raises(UsageError, match="nothing would be left of a, b; allow that with everything"):
            lines.upkeep.prune(Policy(last=0), dry_run=dry_run)
    assert refs(lines) == before
    assert len(pruned(lines, last=0, everything=True)) == 8


def test_what_is_needed_stays(lines: AdapterStore) -> None:
    lines.aliases.set("a@1", "champion")
    lines.tags.set("a@2", {"keep": ""})
    lines.register("child", make_state(20), base=BASE, parents=[Parent("a@3", "frozen")])
    kept = lines.upkeep.prune(Policy(last=1), dry_run=True).kept
    assert kept == {
        "a@1": "alias a@champion stands for it",
        "a@2": "has the tag keep",
        "a@3": "child@1 was made from it",
        "a@5": "is one of the last 1",
        "b@3": "is one of the last 1",
        "child@1": "is one of the last 1",
    }
    assert pruned(lines, last=1) == ["a@4", "b@1", "b@2"]


def test_ancestors_of_what_stays_stay(store: AdapterStore) -> None:
    store.register("a", make_state(0), base=BASE)
    for n in range(1, 4):
        store.register("a", make_state(n), base=BASE, parents=[Parent(f"a@{n}")])
    store.register("a", make_state(9), base=BASE)
    store.aliases.set("a@3", "champion")
    assert pruned(store, last=1) == ["a@4"]


def measure(store: AdapterStore, values: list[float], *, lower_is_better: bool = False) -> None:
    """Registers line@1, line@2, ... each by a run of its own that scored so."""
    for n, value in enumerate(values):
        tasks = [Task("t", (), lower_is_better=lower_is_better)]
        store.start_run(f"run-{n}", config={}, seed=n, tasks=tasks, scenario="task-incremental")
        store.register("line", make_state(n), base=BASE, run=f"run-{n}")
        cell = Score(f"run-{n}", "w", "main", 0, "t", "task_aware", "accuracy", value, 1, "c", "d")
        store.add_scores([cell])


def test_keep_the_best(store: AdapterStore) -> None:
    measure(store, [0.5, 0.9, 0.7, 0.9])
    store.register("line", make_state(9), base=BASE)  # never measured
    assert pruned(store, best=2) == ["line@1", "line@3", "line@5"]
    assert pruned(store, best=1) == ["line@2"]


def test_the_best_may_be_the_lowest(store: AdapterStore) -> None:
    measure(store, [0.5, 0.9, 0.7], lower_is_better=True)
    assert pruned(store, best=2) == ["line@2"]


def test_the_best_by_one_task(store: AdapterStore) -> None:
    measure(store, [0.5, 0.9, 0.7])
    for n, value in enumerate([0.1, 0.2, 0.3]):
        store.add_scores([replace(store.scores(run=f"run-{n}")[0], task="other", value=value)])
    assert pruned(store, best=1, metric=Metric("accuracy", "other")) == ["line@1", "line@2"]


def test_keep_the_young(lines: AdapterStore) -> None:
    with closing(sqlite3.connect(lines.path / "store.db", isolation_level=None)) as raw:
        raw.execute("DROP TRIGGER version_immutable")
        raw.execute("UPDATE version SET created_at = '2020-01-01T00:00:00.000Z' WHERE n = 1")
    assert pruned(lines, within=timedelta(days=30)) == ["a@1", "b@1"]


def test_keep_what_fits(lines: AdapterStore) -> None:
    size = lines.show("a@1").bytes
    lines.register("b", make_state(4), base=BASE)  # the content of a@5
    assert pruned(lines, max_bytes=5 * size - 1, last=1) == ["a@1", "a@2", "a@3", "a@4"]
    assert pruned(lines, max_bytes=4 * size) == []
    assert pruned(lines, max_bytes=0, everything=True) == ["a@5", "b@1", "b@2", "b@3", "b@4"]


def test_what_fits_comes_with_what_it_was_made_from(store: AdapterStore) -> None:
    store.register("a", make_state(0), base=BASE)
    store.register("a", make_state(1), base=BASE)
    store.register("a", make_state(2), base=BASE, parents=[Parent("a@1")])
    size = store.show("a").bytes
    assert pruned(store, max_bytes=2 * size) == ["a@2"]


def test_rules_add_up(lines: AdapterStore) -> None:
    lines.tags.set("b@1", {"keep": "for ever"})
    assert pruned(lines, last=1, within=timedelta(0)) == ["a@1", "a@2", "a@3", "a@4", "b@2"]


def test_bytes_are_those_gc_frees(lines: AdapterStore) -> None:
    lines.register("copy", make_state(0), base=BASE)  # the content of a@1
    size = lines.show("a@1").bytes
    removed = lines.upkeep.prune(Policy(last=3)).removed
    assert removed == Removed(("a@1", "a@2"), size)
    assert lines.upkeep.gc(timedelta(0)).bytes == size


@pytest.mark.parametrize("rules", [{}, {"last": -1}, {"max_bytes": -1}, {"within": timedelta(-1)}])
def test_no_policy(rules: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="prun"):
        Policy(**rules)
