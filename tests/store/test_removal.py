"""Removing versions: what may go, what must stay and why, and what the log keeps."""

from __future__ import annotations

import pytest
from store_audit import audit
from store_exchange import learn
from store_workers import BASE, make_state

from contpeft.errors import NotFoundError, UsageError
from contpeft.spec import Parent, Route, Single
from contpeft.store import AdapterStore, Removed


@pytest.fixture
def lines(store: AdapterStore) -> AdapterStore:
    """line@1 to line@3, child@1 made from line@1, and copy@1 with the content of line@2."""
    for seed in (1, 2, 3):
        store.register("line", make_state(seed), base=BASE)
    store.register("child", make_state(4), base=BASE, parents=[Parent("line@1")])
    store.register("copy", make_state(2), base=BASE)
    return store


def refs(store: AdapterStore) -> list[str]:
    return [version.ref for version in store.versions()]


def test_a_removed_version_is_gone_and_its_number_with_it(lines: AdapterStore) -> None:
    gone = lines.show("line@3")
    assert lines.upkeep.remove(["line"]) == Removed(("line@3",), gone.bytes)
    with pytest.raises(NotFoundError, match=r"no version 'line@3' in .*; there are: 1 to 2"):
        lines.show("line@3")
    assert lines.register("line", make_state(3), base=BASE).ref == "line@4"
    assert audit(lines.path) == []


def test_the_log_keeps_what_was_removed(lines: AdapterStore) -> None:
    lines.tags.set("line@3", {"owner": "ada"})
    gone = lines.show("line@3")
    lines.upkeep.remove(["line@3"])
    (event,) = (event for event in lines.events("line@3") if event.action == "version.removed")
    assert event.detail == {**gone.to_json(), "tags": {"owner": "ada"}}


def test_rows_go_files_stay(lines: AdapterStore) -> None:
    files = sorted(lines.path.rglob("*.safetensors"))
    lines.upkeep.remove(["line@3"])
    assert sorted(lines.path.rglob("*.safetensors")) == files


def test_shared_bytes_are_not_freed(lines: AdapterStore) -> None:
    size = lines.show("copy").bytes
    assert lines.upkeep.remove(["copy"], dry_run=True) == Removed(("copy@1",), 0)
    both = lines.upkeep.remove(["copy@1", "line@2"], dry_run=True)
    assert both == Removed(("line@2", "copy@1"), size)


def test_a_dry_run_removes_nothing(lines: AdapterStore) -> None:
    before = (refs(lines), lines.events())
    lines.upkeep.remove(["line@2", "line@3"], dry_run=True)
    assert (refs(lines), lines.events()) == before


def test_parents_stay_but_go_with_their_children(lines: AdapterStore) -> None:
    for dry_run in (True, False):
        with pytest.raises(UsageError) as caught:
            lines.upkeep.remove(["line@2", "line@1"], dry_run=dry_run)
        assert str(caught.value) == f"version 'line@1' in {lines.path} must stay: child@1 was made from it"
    assert len(refs(lines)) == 5
    assert lines.upkeep.remove(["line@1", "child@1", "line@1"]).refs == ("line@1", "child@1")
    assert refs(lines) == ["copy@1", "line@3", "line@2"]
    assert audit(lines.path) == []


def test_what_an_alias_stands_for_stays(lines: AdapterStore) -> None:
    lines.aliases.set("line@2", "champion")
    with pytest.raises(UsageError, match="must stay: alias line@champion stands for it"):
        lines.upkeep.remove(["line@2"])
    lines.aliases.remove("line", "champion")
    assert lines.upkeep.remove(["line@2"]).refs == ("line@2",)
    with pytest.raises(NotFoundError, match=r"no version 'line@2'"):
        lines.aliases.undo("line", "champion")


def test_what_a_finished_step_made_or_answers_with_stays(lines: AdapterStore) -> None:
    lines.start_run("demo", config={}, seed=0, tasks=[], scenario="class-incremental")
    answers = {"main": Route("copy@1", (Single("line@2"),))}
    lines.finish_step(
        "demo", "ewc", 0, task="a", answers=answers, versions=["line@3"], scores=[], seconds=1.0
    )
    for ref in ("copy@1", "line@2", "line@3"):
        with pytest.raises(UsageError, match=f"version '{ref}' in .* must stay: step demo/ewc/0 needs it"):
            lines.upkeep.remove([ref])


def test_all_or_nothing(lines: AdapterStore) -> None:
    with pytest.raises(NotFoundError):
        lines.upkeep.remove(["line@3", "nobody"])
    assert len(refs(lines)) == 5


def test_a_run_goes_whole(store: AdapterStore) -> None:
    learn(store)
    learn(store, run="other", shift=1)
    store.aliases.set("demo.ewc@1", "champion")
    with pytest.raises(UsageError, match=r"'demo.ewc@1' in .* must stay: alias demo.ewc@champion stands for"):
        store.upkeep.remove_run("demo")
    store.aliases.remove("demo.ewc", "champion")
    child = store.register("child", make_state(50), base=BASE, parents=[Parent("demo.ewc@2")])
    with pytest.raises(UsageError, match=r"'demo.ewc@2' in .* must stay: child@1 was made from it"):
        store.upkeep.remove_run("demo")
    store.upkeep.remove([child.ref])
    with pytest.raises(NotFoundError, match=r"no run 'dem' in .*; did you mean 'demo'\?"):
        store.upkeep.remove_run("dem")
    told = store.upkeep.remove_run("demo", dry_run=True)
    assert len(store.runs()) == 2
    assert store.upkeep.remove_run("demo") == told
    assert told.refs == ("demo.ewc@1", "demo.ewc@2")
    assert [run.name for run in store.runs()] == ["other"]
    assert {score.run for score in store.scores()} == {"other"}
    assert [version.name for version in store.versions()] == ["other.ewc"] * 2
    assert store.events("demo")[-1].action == "run.removed"
    assert store.events("demo")[-1].detail["seed"] == 0
    learn(store, steps=0)
    assert store.register("demo.ewc", make_state(0), base=BASE, run="demo").ref == "demo.ewc@3"
    assert audit(store.path) == []
