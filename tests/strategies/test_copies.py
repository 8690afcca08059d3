"""Copies of an adapter, averaged or with another head, beside parts that count what was trained."""

from __future__ import annotations

from dataclasses import replace

import pytest
from strategies_tiny import learnt

from contpeft.spec import Parent, Single
from contpeft.store import AdapterStore
from contpeft.strategies import (
    AlignClassifier,
    BeforeAndAfter,
    Follow,
    FromLast,
    KeepAverage,
    Linear,
    MergeOn,
    Recipe,
    ScaledDirections,
    Then,
    TheSurest,
    find_recipe,
)
from contpeft.strategies.answers.latest import Stacked
from contpeft.strategies.parts import Consolidate

AVERAGED = KeepAverage()
ALIGNED = AlignClassifier(draws=8, epochs=1)
BOTH = Then((ALIGNED, AVERAGED))
HEAD = Linear(grow=True, local=True)


def recipe(consolidate: Consolidate, **parts: object) -> Recipe:
    """Returns a recipe that leaves copies after each task, put together by hand."""
    return replace(Recipe(head=HEAD, projection=Follow(), consolidate=consolidate), **parts)


@pytest.mark.parametrize(
    ("consolidate", "last"), [(AVERAGED, ("way@1", "way@2")), (ALIGNED, ("way@2", "way@4")), (BOTH, None)]
)
def test_of_each_task_one_adapter_counts_as_it_was_left(
    store: AdapterStore, consolidate: Consolidate, last: tuple[str, str] | None
) -> None:
    """The average is a version beside it; the aligned one takes the place of the one it was made of."""
    way = learnt(store, recipe(consolidate, init=FromLast()), tasks=2)
    context = way.context(2)
    expected = last or ("way@2", "way@4")
    assert tuple(version.ref for version in context.adapters) == expected
    assert context.previous[0].ref == expected[-1]
    started = way.started(2)
    assert started.parents == (Parent(expected[-1], "continued"),)


@pytest.mark.parametrize("consolidate", [AVERAGED, ALIGNED, BOTH])
def test_directions_are_counted_by_task(store: AdapterStore, consolidate: Consolidate) -> None:
    way = learnt(store, recipe(consolidate, init=ScaledDirections()))
    assert [version.config["r"] for version in way.context(2).adapters] == [2, 4, 6]


@pytest.mark.parametrize(("consolidate", "last"), [(AVERAGED, 1), (ALIGNED, 2), (BOTH, 2)])
def test_each_task_is_added_up_and_asked_once(
    store: AdapterStore, consolidate: Consolidate, last: int
) -> None:
    expected = [f"way.{name}@{last}" for name in ("one", "two", "three")]
    stacked = replace(
        find_recipe("incremental-sum-local"), head=HEAD, projection=Follow(), consolidate=consolidate
    )
    assert stacked.answers == Stacked()
    way = learnt(store, stacked)
    assert [ref for ref, _ in way.answers[-1]["main"].parts] == expected
    trained = store.show("way.three@1")
    assert [parent.ref for parent in trained.parents] == expected[:2]
    way = learnt(store, recipe(consolidate, answers=TheSurest()), line="asked")
    assert [choice.ref for choice in way.answers[-1]["main"].choices] == [
        ref.replace("way", "asked") for ref in expected
    ]


def test_a_merge_is_of_what_was_trained(store: AdapterStore) -> None:
    way = learnt(store, recipe(Then((AVERAGED, MergeOn("sum")))), tasks=2)
    (merged,) = (version for version in way.history if version.origin == "fused")
    assert [parent.ref for parent in merged.parents] == ["way.one@1", "way.two@1"]


@pytest.mark.parametrize("consolidate", [ALIGNED, BOTH])
def test_the_aligned_one_answers_whatever_is_kept_beside_it(
    store: AdapterStore, consolidate: Consolidate
) -> None:
    way = learnt(store, recipe(consolidate, init=FromLast(), answers=BeforeAndAfter()), tasks=2)
    assert way.answers[-1] == {"main": Single("way@4"), "before-alignment": Single("way@3")}


def test_a_task_that_is_learnt_again_counts_again(store: AdapterStore) -> None:
    """It was trained, whatever it continues and is called."""
    way = learnt(store, recipe(AVERAGED, init=FromLast()), tasks=1)
    way.learn(0)
    assert [version.ref for version in way.context(1).adapters] == ["way@1", "way@2"]
