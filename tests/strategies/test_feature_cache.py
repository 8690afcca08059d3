"""Features kept in memory: a bound that holds, who makes room, and equal bits after it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies_tiny import WIDTH, Classifier, examples, learnt
from torch import Tensor

from contpeft.adapters import AdaptedModel
from contpeft.spec import Base, Single
from contpeft.store import AdapterStore
from contpeft.strategies import FeatureCache, Features, find_recipe

INPUTS = examples("abc", 5, seed=1)[0]
SIZE = len(INPUTS) * WIDTH * 4

ASKED = st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=30)


def ask(cache: FeatureCache, base: bool, key: int, compute: Callable[[], Tensor]) -> Tensor:
    return (cache.of_base if base else cache.of_part)((f"{base}", f"{key}"), compute)


@given(asked=ASKED, size=st.integers(0, 60))
def test_it_is_the_plainest_cache_of_its_kind(asked: list[tuple[bool, int]], size: int) -> None:
    """Against a list, the least recently used first; entry number ``n`` has ``4 n`` bytes."""
    cache, there = FeatureCache(size), list[tuple[bool, int]]()
    for base, key in asked:
        made: list[Tensor] = []

        def compute(key: int = key, made: list[Tensor] = made) -> Tensor:
            made.append(torch.full((key,), float(key)))
            return made[-1]

        found = ask(cache, base, key, compute)
        assert found.tolist() == [float(key)] * key
        assert bool(made) is ((base, key) not in there)
        there = [each for each in there if each != (base, key)]
        if 4 * key <= size:
            while made and sum(4 * n for _, n in there) + 4 * key > size:
                there.remove(next((each for each in there if not each[0]), there[0]))
            there.append((base, key))
        assert (cache.nbytes, len(cache)) == (sum(4 * n for _, n in there), len(there))
        assert all((f"{b}", f"{n}") in cache for b, n in there)
        assert cache.nbytes <= size


@pytest.mark.parametrize("entries", [0, 1, 2, 3])
def test_equal_bits_come_back_whatever_was_dropped(store: AdapterStore, entries: int) -> None:
    """Two adapters and the base in turn, twice, against features that nothing was ever dropped of."""
    way = learnt(store, find_recipe("isolated"), tasks=2)
    load = way.context(0).load
    parts = (Single("way.one@1"), Single("way.two@1"), Base())

    def twice(size: int) -> tuple[list[Tensor], int]:
        module = Counting()
        cache = FeatureCache(size)
        features = Features(AdaptedModel.of(module), batch_size=4, cache=cache)
        found = [features.through([part], load, INPUTS, "data") for part in 2 * parts]
        assert cache.nbytes == min(size, 3 * SIZE)
        return found, module.rows // len(INPUTS)

    kept, computed = twice(3 * SIZE)
    assert computed == 3
    found, again = twice(entries * SIZE)
    assert again == {0: 6, 1: 6, 2: 5, 3: 3}[entries]  # of the base alone where two have room: kept longest
    assert all(torch.equal(one, other) for one, other in zip(found, kept, strict=True))
    assert not torch.equal(kept[0], kept[1])


class Counting(Classifier):
    """Counts the rows it encodes."""

    rows = 0

    def encode(self, batch: dict[str, Tensor]) -> Tensor:
        self.rows += len(batch["input_ids"])
        return super().encode(batch)


def test_a_run_has_a_bound_of_its_own() -> None:
    assert FeatureCache().size == 2**30
