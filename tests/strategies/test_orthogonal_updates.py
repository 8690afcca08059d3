"""Penalties that keep a new update away from earlier ones: O-LoRA, N-LoRA, ELLA; and their measures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies_tiny import Way, learnt, same
from tiny_factors import delta, doctored, live, shake, stored
from torch import Tensor

from contpeft.adapters import Factors
from contpeft.errors import UnsupportedError
from contpeft.spec import AdapterSpec
from contpeft.store import AdapterStore
from contpeft.strategies import Context, Freeze, OrthogonalRows, SparseUpdate, UsedEntries, find_recipe
from contpeft.strategies.earlier import meeting

MODULES = 4  # query and value of two layers
SUM = "incremental-sum-local"


def rows(*firsts: list[float]) -> Tensor:
    """Returns rows of 16 entries that begin so."""
    return torch.tensor([[*first, *[0.0] * (16 - len(first))] for first in firsts])


def facing(store: AdapterStore, earlier: Tensor, now: Tensor) -> Context:
    """Returns a second task at hand, the first adapter's ``A`` being ``earlier`` and this one's ``now``."""
    way = learnt(store, find_recipe("o-lora"), tasks=1)
    doctored(way, lambda name, tensor: earlier if "lora_A" in name else tensor)
    context = way.started(1)
    with torch.no_grad():
        for factors in context.factors("a test").values():
            factors.down.copy_(now)
    return context


@pytest.mark.parametrize(
    ("penalty", "by_hand"),
    [
        (OrthogonalRows(2.0, "sum"), 2 * 9 * MODULES),
        (OrthogonalRows(2.0, "mean"), 2 * 9 / 4),
        (OrthogonalRows(2.0, "sum", power=2), 2 * 41 * MODULES),
        (OrthogonalRows(2.0, "mean", power=2), 2 * 41 / 4),
    ],
)
def test_orthogonal_rows_of_two_by_two_by_hand(
    store: AdapterStore, penalty: OrthogonalRows, by_hand: float
) -> None:
    """``[[1, 0], [0, 2]] [[1, 1], [0, 3]]^T = [[1, 0], [2, 6]]``."""
    context = facing(store, rows([1, 0], [0, -2]), rows([1, 1], [0, 3]))
    assert penalty.loss(context, None, None).item() == pytest.approx(by_hand, rel=1e-6)


def test_orthogonal_row_spaces_cost_nothing(store: AdapterStore) -> None:
    context = facing(store, rows([1, 0], [0, -2]), rows([0, 0, 1, 5], [0, 0, 7, 0]))
    assert OrthogonalRows(1.0, "sum").loss(context, None, None).item() == 0.0


def test_orthogonal_rows_pull_at_a_alone(store: AdapterStore) -> None:
    context = facing(store, rows([1, 0], [0, -2]), rows([1, 1], [0, 3]))
    OrthogonalRows(1.0, "sum").loss(context, None, None).backward()
    for factors in context.factors("a test").values():
        # d sum |A_1 A^T| / dA: the signs of the products [[1, 0], [-2, -6]] times the rows of A_1.
        torch.testing.assert_close(factors.down.grad, rows([1, 2], [0, 2]))
        assert factors.up.grad is None
    assert context.adapted.head.weight.grad is None


def test_orthogonal_rows_face_all_earlier_tasks(store: AdapterStore) -> None:
    way = learnt(store, find_recipe("o-lora"), tasks=2)
    context = way.started(2)
    now = live(context)
    products = [
        np.abs(stored(way, ref)[module][0] @ now[module][0].T)
        for ref in ("way.one@1", "way.two@1")
        for module in now
    ]
    expected = {
        "sum": sum(each.sum() for each in products),
        "mean": np.mean([each.mean() for each in products]),
    }
    for reduction, value in expected.items():
        measured = OrthogonalRows(0.5, reduction).loss(context, None, None).item()
        assert measured == pytest.approx(0.5 * value, rel=1e-5)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_a_sparse_update_counts_the_entries_of_the_product(store: AdapterStore, reduction: str) -> None:
    context = learnt(store, find_recipe("n-lora"), tasks=1).started(1)
    shake(context)
    sizes = [np.abs(delta(each)) for each in live(context).values()]
    expected = sum(size.sum() for size in sizes) if reduction == "sum" else np.mean(sizes)
    loss = SparseUpdate(0.3, reduction).loss(context, None, None)
    assert loss.item() == pytest.approx(0.3 * expected, rel=1e-5)
    loss.backward()
    factors = context.factors("a test").values()
    assert all(f.down.grad.abs().sum() > 0 and f.up.grad.abs().sum() > 0 for f in factors)


def test_used_entries_are_the_sizes_of_all_updates_added_up(store: AdapterStore) -> None:
    way = learnt(store, find_recipe("ella"), tasks=3)
    total: dict[str, np.ndarray] = {}
    for n, ref in enumerate(("way.one@1", "way.two@1", "way.three@1"), 1):
        for module, factors in stored(way, ref).items():
            total[module] = total.get(module, 0) + np.abs(delta(factors))
        used = store.load(f"way.used@{n}").tensors
        assert used.keys() == total.keys()
        for module, expected in total.items():
            np.testing.assert_allclose(used[module].double().numpy(), expected, rtol=1e-5, atol=1e-8)


def test_used_entries_penalty_against_numpy(store: AdapterStore) -> None:
    way = learnt(store, find_recipe("ella"), tasks=2)
    context = way.started(2)
    assert UsedEntries(5.0).loss(context, None, None).item() == 0.0  # B is zero still
    shake(context)
    used = store.load("way.used@2").tensors
    now = live(context)
    expected = sum(((delta(now[m]) * used[m].double().numpy()) ** 2).sum() for m in now)
    assert UsedEntries(5.0).loss(context, None, None).item() == pytest.approx(5 * expected, rel=1e-5)


def test_entries_that_no_update_has_used_are_free(store: AdapterStore) -> None:
    way = learnt(store, find_recipe("ella"), tasks=1)
    context = way.started(1)
    shake(context)
    way.history = tuple(v for v in way.history if v.name != "way.used")
    free = way.context(1)
    assert UsedEntries(5.0).loss(free, None, None) is None


@pytest.mark.parametrize("name", ["o-lora", "n-lora", "ella"])
def test_at_weight_zero_it_is_the_sum_of_adapters_bit_for_bit(store: AdapterStore, name: str) -> None:
    recipe = find_recipe(name)
    learnt(store, replace(recipe, penalty=replace(recipe.penalty, weight=0.0)), tasks=2, line="free")
    learnt(store, find_recipe(SUM), tasks=2, line="plain")
    for task in ("one", "two"):
        assert same(store.load(f"free.{task}@1").tensors, store.load(f"plain.{task}@1").tensors)
    learnt(store, recipe, tasks=2, line="bound")
    assert same(store.load("bound.one@1").tensors, store.load("plain.one@1").tensors)
    assert not same(store.load("bound.two@1").tensors, store.load("plain.two@1").tensors)


def measured(store: AdapterStore, line: str, n: int) -> tuple[float, float]:
    facts = store.show(f"{line}.overlap@{n}").config
    return facts["overlap"], facts["size"]


def test_rows_come_to_share_less_than_without_the_penalty(store: AdapterStore) -> None:
    recipe = find_recipe("o-lora")
    learnt(store, recipe, line="bound")
    learnt(store, replace(recipe, penalty=OrthogonalRows(0.0)), line="free")
    assert store.show("bound.overlap@1").config["overlap"] is None
    for n in (2, 3):
        assert measured(store, "bound", n)[0] < 0.6 * measured(store, "free", n)[0]
        assert measured(store, "bound", n)[1] > 0.3 * measured(store, "free", n)[1]  # it did learn


@pytest.mark.parametrize(("name", "most"), [("n-lora", 0.5), ("ella", 0.7)])
def test_updates_share_fewer_entries_than_without_the_penalty(
    store: AdapterStore, name: str, most: float
) -> None:
    recipe = find_recipe(name)

    def shared(line: str, weight: float) -> float:
        way = learnt(store, replace(recipe, penalty=replace(recipe.penalty, weight=weight)), 2, line=line)
        one, two = stored(way, f"{line}.one@1"), stored(way, f"{line}.two@1")
        return sum((delta(one[m]) ** 2 * delta(two[m]) ** 2).sum() for m in one)

    assert shared("bound", recipe.penalty.weight) < most * shared("free", 0.0)


def test_what_is_remembered_of_the_overlap(store: AdapterStore) -> None:
    way = learnt(store, find_recipe("o-lora"))
    now = stored(way, "way.three@1")
    expected = []
    for ref in ("way.one@1", "way.two@1"):
        each = [
            np.linalg.norm(a @ now[m][0].T) / (np.linalg.norm(a) * np.linalg.norm(now[m][0]))
            for m, (a, _, _) in stored(way, ref).items()
        ]
        expected.append(np.mean(each))
    memory = store.load("way.overlap@3")
    np.testing.assert_allclose(memory.tensors["overlaps"].numpy(), expected, rtol=1e-6)
    size = np.sqrt(sum((delta(each) ** 2).sum() for each in now.values()))
    assert memory.config["size"] == pytest.approx(size, rel=1e-6)
    assert memory.config["overlap"] == pytest.approx(np.mean(expected), rel=1e-6)
    assert [v.ref for v in way.history if v.adapts] == ["way.one@1", "way.two@1", "way.three@1"]


@settings(max_examples=30, deadline=None)
@given(
    ranks=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    width=st.integers(4, 9),
    seed=st.integers(0, 2**16),
    stretch=st.floats(0.1, 10),
)
def test_an_overlap_is_a_share_whatever_the_lengths(
    ranks: tuple[int, int], width: int, seed: int, stretch: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    one, two = ({"m": Factors(draw(r, width), draw(3, r), 2.0)} for r in ranks)
    found = meeting(one, [two])
    assert 0 <= found.overlaps[0] <= 1 + 1e-6
    longer = {"m": Factors(stretch * one["m"].down, one["m"].up, 2.0)}
    assert meeting(longer, [two]).overlaps[0] == pytest.approx(found.overlaps[0], rel=1e-5)
    assert meeting(longer, [two]).size == pytest.approx(stretch * found.size, rel=1e-5)
    alike = {"m": Factors(one["m"].down[:1], one["m"].up[:, :1], 2.0)}
    assert meeting(alike, [alike]).overlaps[0] == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("o-lora", "keeping rows orthogonal"),
        ("n-lora", "keeping updates sparse"),
        ("ella", "staying away from used entries"),
    ],
)
def test_other_methods_are_refused_by_name(store: AdapterStore, name: str, part: str) -> None:
    spec = AdapterSpec("houlsby", reduction_factor=4)
    way = Way(store, replace(find_recipe(name), consolidate=Freeze()), spec=spec)
    with pytest.raises(UnsupportedError, match=f"^{part} works on the factors of LoRA adapters, not on one"):
        way.learn(0)
