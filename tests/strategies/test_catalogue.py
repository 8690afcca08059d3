"""What is told of recipes and parts, and which are recommended."""

from __future__ import annotations

import json

import pytest

from contpeft.spec import SCENARIOS
from contpeft.strategies import RECIPES
from contpeft.strategies.about import AN_ADAPTER, COMPONENTS
from contpeft.strategies.catalogue import part_rows, recipe_row, recipe_rows
from contpeft.strategies.measured import Measured, measured
from contpeft.strategies.recommend import Facts, recommend


def test_every_recipe_says_what_it_is() -> None:
    rows = recipe_rows()
    assert [row.name for row in rows] == list(RECIPES)
    for row in rows:
        assert row.what.endswith("."), row.name
        assert len(row.what) < 140, row.name
        assert row.scenarios
        assert set(row.scenarios) <= set(SCENARIOS)
        assert {"init", "head", "consolidate", "answers"} <= {part.kind for part in row.parts}
    assert json.loads(json.dumps([row.to_json() for row in rows]))


def test_every_part_says_what_it_is() -> None:
    rows = part_rows()
    assert len({(row.kind, row.name) for row in rows}) == len(rows)
    for row in rows:
        assert row.what.endswith("."), row.name
    assert json.loads(json.dumps([row.to_json() for row in rows]))


def test_a_recipe_needs_what_its_parts_need() -> None:
    row = recipe_row("isolated")
    assert set(row.needs) == {"examples", "features"}
    assert row.growth == ("an adapter", "d a class", "d a class; d x d once")
    assert [part.name for part in row.parts if part.kind == "head"] == ["Cosine"]


def test_no_two_recipes_are_told_alike() -> None:
    rows = recipe_rows()
    assert len({row.what for row in rows}) == len(rows)


@pytest.mark.parametrize("name", list(RECIPES))
def test_a_recipe_that_answers_with_all_its_adapters_says_that_it_keeps_them(name: str) -> None:
    row = recipe_row(name)
    reads_all = {"Stacked", "RouteByStatistics", "TheSurest", "MixByStatistics", "MixByArrow", "MergeAfter"}
    if reads_all & {part.name for part in row.parts}:
        assert AN_ADAPTER in row.growth


@pytest.mark.parametrize("name", ["merge-ties-sequential", "sd-lora", "inflora", "gpm", "keeplora", "o-lora"])
def test_adapters_that_add_up_are_no_constant_memory(name: str) -> None:
    assert name not in {each.name for each in recommend(Facts(constant=True), table())}


@pytest.mark.parametrize("facts", [Facts(constant=True), Facts(task_id=True, constant=True)])
def test_pools_that_grow_by_components_are_no_constant_memory(facts: Facts) -> None:
    names = {each.name for each in recommend(facts, table())}
    assert not names & {"coda-prompt", "coda-prompt-orthogonal", "dualprompt", "progressive-prompts"}
    assert "l2p" in names  # all tasks train one pool


def test_what_a_pool_keeps_a_task_is_told_of_its_banks() -> None:
    grown, shared = (recipe_row(name).parts[0] for name in ("coda-prompt", "l2p"))
    assert (grown.name, shared.name) == ("Pooled", "Pooled")
    assert grown.growth == COMPONENTS
    assert shared.growth == ""
    assert recipe_row("l2p").growth == ("d a class",)


def test_a_recipe_is_made_of_parts_not_of_their_options() -> None:
    def shown(name: str) -> list[str]:
        return [part.name for part in recipe_row(name).parts]

    assert shown("dualprompt") == ["Pooled", "Cosine", "NearKeys", "Freeze", "Latest"]
    assert shown("fusion-per-task")[:2] == ["Fresh", "FuseAll"]
    assert [part.name for part in recipe_row("si").parts if part.kind == "projection"] == ["SumPath"]
    assert [part.name for part in recipe_row("osf").parts if part.kind == "projection"] == [
        "OrthogonalSubspace"
    ]


def table() -> list[Measured]:
    def rows(stream: str, **acc: float) -> list[Measured]:
        return [Measured(stream, "class-incremental", way, "main", {0: value}) for way, value in acc.items()]

    return [
        *rows("one", joint=0.9, isolated=0.85, sequential=0.5),
        *rows("two", joint=0.8, isolated=0.82),
        Measured("one", "class-incremental", "frozen", "lda", {0: 0.88}),
        Measured("one", "class-incremental", "frozen", "class-means", {0: 0.80}),
        Measured("far", "task-incremental", "sequential", "main", {0: 0.99}),
    ]


def test_the_nearest_to_joint_training_comes_first() -> None:
    found = recommend(Facts(), table())
    assert [(each.name, each.streams) for each in found[:3]] == [
        ("isolated", ("one", "two")),
        ("frozen", ("one",)),
        ("sequential", ("one",)),
    ]
    assert [each.gap for each in found[:3]] == pytest.approx([-1.5, -2.0, -40.0])
    assert {each.gap for each in found[3:]} == {None}


def test_a_recipe_is_known_for_its_main_answer() -> None:
    main = Measured("one", "class-incremental", "sequential", "main", {0: 0.5})
    other = Measured("one", "class-incremental", "sequential", "before-merge", {0: 0.7})
    joint = Measured("one", "class-incremental", "joint", "main", {0: 0.9})
    for rows in ([joint, main, other], [joint, other, main]):
        (found,) = [each for each in recommend(Facts(), rows) if each.name == "sequential"]
        assert found.gap == pytest.approx(-40.0)


def test_only_seeds_that_both_have_are_compared() -> None:
    joint = Measured("one", "class-incremental", "joint", "main", {0: 0.9, 1: 0.5, 2: 0.6})
    better = Measured("one", "class-incremental", "sequential", "main", {1: 0.6, 2: 0.8, 3: 0.1})
    apart = Measured("one", "class-incremental", "isolated", "main", {3: 0.9})
    found = {each.name: each.gap for each in recommend(Facts(), [joint, better, apart])}
    assert found["sequential"] == pytest.approx(15.0)
    assert found["isolated"] is None


def test_facts_rule_recipes_out() -> None:
    names = {each.name for each in recommend(Facts(), table())}
    assert "joint" not in names
    assert {"isolated", "sequential", "frozen"} <= names
    constant = {each.name for each in recommend(Facts(constant=True), table())}
    assert "isolated" not in constant
    assert {"sequential", "frozen"} <= constant
    of_images = {each.name for each in recommend(Facts(texts=False), table())}
    assert names - of_images == {"drift-tokens", "frozen-tokens"}
    for facts in (Facts(), Facts(task_id=True), Facts(shared_labels=True)):
        for each in recommend(facts, table()):
            row = recipe_row(each.name)
            assert facts.scenario in row.scenarios
            assert "old data" not in row.needs
            assert facts.task_id or "task id" not in row.needs


def test_the_packaged_table_is_of_recipes_that_exist() -> None:
    assert {row.way for row in measured()} <= set(RECIPES)
    assert all(0 <= value <= 1 for row in measured() for value in row.acc.values())
