"""Renaming: everything follows, unless something that never changes names the old one."""

from __future__ import annotations

import pytest
from store_audit import audit
from store_workers import BASE, make_state

from contpeft.errors import NotFoundError, SpecError, UsageError
from contpeft.spec import Parent, Single
from contpeft.store import AdapterStore


@pytest.fixture
def lines(store: AdapterStore) -> AdapterStore:
    """a@1, a@2 made from it, and b_c@1 made from a@2."""
    store.register("a", make_state(0), base=BASE)
    store.register("a", make_state(1), base=BASE, parents=[Parent("a@1")])
    store.register("b_c", make_state(2), base=BASE, parents=[Parent("a@2")])
    store.aliases.set("a@1", "champion")
    return store


def test_versions_aliases_and_lineage_follow(lines: AdapterStore) -> None:
    lines.upkeep.rename("a", "new")
    assert lines.names() == ["b_c", "new"]
    assert lines.resolve("new@champion") == "new@1"
    assert lines.show("b_c").parents == (Parent("new@2"),)
    assert [change.after for change in lines.aliases.log("new")] == [1]
    assert lines.aliases.undo("new", "champion").after is None
    assert lines.register("new", make_state(3), base=BASE).ref == "new@3"
    (event,) = [event for event in lines.events("a") if event.action == "adapter.renamed"]
    assert event.detail == {"to": "new"}
    assert audit(lines.path) == []


def test_other_case_is_another_spelling_of_the_same(lines: AdapterStore) -> None:
    lines.upkeep.rename("a", "A")
    assert lines.resolve("A") == "A@2"
    lines.upkeep.rename("A", "A")
    assert len([event for event in lines.events() if event.action == "adapter.renamed"]) == 1


def test_a_name_that_is_taken_or_none(lines: AdapterStore) -> None:
    for new in ("b_c", "B_C"):
        with pytest.raises(SpecError, match=r"there is an adapter 'b_c' in .* already; choose another name"):
            lines.upkeep.rename("a", new)
    with pytest.raises(SpecError):
        lines.upkeep.rename("a", "../x")
    with pytest.raises(NotFoundError, match="no adapter 'x'"):
        lines.upkeep.rename("x", "y")
    assert lines.names() == ["a", "b_c"]


def test_what_a_step_names_keeps_its_name(lines: AdapterStore) -> None:
    lines.start_run("demo", config={}, seed=0, tasks=[], scenario="class-incremental")
    answers = {"main": Single("a@2")}
    lines.finish_step("demo", "ewc", 0, task="t", answers=answers, versions=[], scores=[], seconds=1.0)
    with pytest.raises(UsageError, match=r"adapter 'a' in .* cannot be renamed: step demo/ewc/0 names it"):
        lines.upkeep.rename("a", "new")
    lines.upkeep.rename("b_c", "free")


def test_what_a_recipe_names_keeps_its_name(lines: AdapterStore) -> None:
    recipe = {"rule": "sum", "of": [{"ref": "b_c@1", "weight": 1.0}]}
    lines.register("fused", make_state(5), base=BASE, origin="fused", recipe=recipe)
    with pytest.raises(UsageError, match="cannot be renamed: the recipe of fused@1 names it"):
        lines.upkeep.rename("b_c", "new")
    lines.register("bxc", make_state(6), base=BASE)
    lines.upkeep.rename("bxc", "free")
