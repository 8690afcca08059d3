"""Statistics that follow an adapter: registered with whose features they are, and answering with them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from strategies_tiny import Way, learnt, training
from torch.nn import functional as F

from contpeft.errors import UnsupportedError
from contpeft.spec import Base, Concat, Parent, Single
from contpeft.store import AdapterStore
from contpeft.strategies import FollowStatistics, Fresh, GatherStatistics, NoAdapter, Slow, find_recipe


def test_statistics_stand_over_the_last_adapter_and_the_base(store: AdapterStore) -> None:
    way = learnt(store, find_recipe("drift-lda-beside"))
    assert [version.ref for version in way.history] == [
        ref for n in (1, 2, 3) for ref in (f"way@{n}", f"way.lda-last-and-base@{n}")
    ]
    last = way.history[-1]
    assert last.parents == (Parent("way.lda-last-and-base@2", "continued"), Parent("way@3", "frozen"))
    assert way.answers[2] == {"main": Concat((Single("way@3"), Base()), last.ref)}
    assert last.head is not None
    assert last.head.classes == tuple("abcdef")


def test_an_adapter_that_does_not_move_leaves_the_statistics_as_they_were_gathered(
    store: AdapterStore,
) -> None:
    still = replace(find_recipe("drift-lda-beside"), projection=Slow(0.0))
    way = learnt(store, still, line="still")
    gathered = replace(
        find_recipe("aper-lda"), consolidate=GatherStatistics(shrinkage=0.2, over="first+base")
    )
    other = learnt(store, replace(gathered, projection=Slow(0.0)), line="other")
    one, two = (store.load(each.history[-1].ref).head_tensors() for each in (way, other))
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-12, atol=1e-12)


def test_means_that_follow_are_nearer_to_where_their_rows_are(store: AdapterStore) -> None:
    """The rows of the first task, read again by the last adapter, tell where its means ought to be."""
    away = {}
    parts = {"follows": FollowStatistics(), "stays": GatherStatistics(over="last")}
    for line, consolidate in parts.items():
        way = learnt(store, replace(find_recipe("drift-lda"), consolidate=consolidate), line=line)
        means = store.load(way.history[-1].ref).head_tensors()["means"][:2]
        context, data = way.context(2), training("ab")
        now = context.features.through((Single(f"{line}@3"),), context.load, data.inputs, data.digest)
        unit = F.normalize(now.double(), dim=1)
        there = torch.stack([unit[data.rows(label)].mean(0) for label in "ab"])
        away[line] = float((means - there).norm())
    assert away["follows"] < 0.7 * away["stays"]


def test_it_needs_an_adapter_at_every_task(store: AdapterStore) -> None:
    way = Way(store, replace(find_recipe("drift-lda"), init=NoAdapter()))
    with pytest.raises(
        UnsupportedError, match=r"^statistics that follow an adapter need one that is trained"
    ):
        way.learn(0)
    assert learnt(store, replace(find_recipe("drift-lda"), init=Fresh()), tasks=2, line="fresh").history
