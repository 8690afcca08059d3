"""What must hold of every rule that merges one task after another."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from merging_oracle import Dense
from merging_sources import (
    MODULES,
    SHAPE,
    assert_equal,
    dense_merged,
    dense_update,
    merge,
    name,
    several,
    source,
)

from contpeft.merging import Fusion, Merged, Source, fuse, make_rule

MODULE = MODULES[1]
SEEDS = st.integers(0, 10_000)
FULL = {"space": "delta", "rank": str(min(SHAPE))}


def as_source(merged: Merged, weight: float = 1.0) -> Source:
    """Returns a merge as one adapter to be merged."""
    return Source("m@1", "m" * 64, merged.kind, merged.config, merged.tensors, weight)


def norm(matrices: list[Dense]) -> float:
    return float(np.sqrt(sum(np.sum(matrix**2) for matrix in matrices)))


@settings(max_examples=15, deadline=None)
@given(SEEDS)
@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ("sum", {}),
        ("average", {}),
        ("task-arithmetic", {"scale": 1.0}),
        ("magmax", {"scale": 1.0}),
        ("ties", {"density": 1.0}),
        ("opcm", {}),
        ("null-space", {}),
    ],
)
def test_the_merge_of_one_adapter_is_that_adapter(rule: str, told: dict[str, float], seed: int) -> None:
    one = source(seed)
    made = merge(rule, one, **told)
    for module in MODULES:
        np.testing.assert_allclose(dense_merged(made, module), dense_update(one, module), atol=1e-9)


@pytest.mark.parametrize("rule", ["average", "task-arithmetic", "ties", "magmax"])
def test_the_order_of_tasks_does_not_matter(rule: str) -> None:
    sources = several(rule)
    first = merge(rule, *sources)
    for order in permutations(sources):
        assert_equal(merge(rule, *order), first)


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.integers(2, 4))
def test_a_running_average_is_that_of_all(seed: int, count: int) -> None:
    sources = [source(seed + place, 2) for place in range(count)]
    running = as_source(merge("average", sources[0]))
    for seen, new in enumerate(sources[1:], start=1):
        made = merge("average", Source(**{**vars(running), "weight": float(seen)}), new)
        running = as_source(made)
    assert_equal(made, merge("average", *sources))


@settings(max_examples=10, deadline=None)
@given(SEEDS, st.integers(2, 4))
def test_a_running_magmax_on_the_weights_is_that_of_all(seed: int, count: int) -> None:
    sources = [source(seed + place, 2) for place in range(count)]
    running = sources[0]
    for new in sources[1:]:
        made = merge("magmax", running, new, **FULL)
        running = as_source(made)
    assert_equal(made, merge("magmax", *sources, **FULL))
    largest = np.max([np.abs(dense_update(each, MODULE)) for each in sources], axis=0)
    np.testing.assert_allclose(np.abs(dense_merged(made, MODULE)), largest, atol=1e-9)


@settings(max_examples=10, deadline=None)
@given(SEEDS)
def test_magmax_is_idempotent_and_magnitudes_only_grow(seed: int) -> None:
    one, two, three = (source(seed + place, 2) for place in range(3))
    twice = Source(**{**vars(one), "label": "again@1", "digest": "f" * 64})
    np.testing.assert_allclose(
        dense_merged(merge("magmax", one, twice, **FULL), MODULE), dense_update(one, MODULE), atol=1e-9
    )
    pair = merge("magmax", one, two, **FULL)
    more = merge("magmax", as_source(pair), three, **FULL)
    grown = np.abs(dense_merged(more, MODULE)) - np.abs(dense_merged(pair, MODULE))
    assert grown.min() > -1e-9


@pytest.mark.parametrize("rule", ["sum", "average"])
def test_a_linear_merge_answers_as_the_weighted_sum_of_the_layers(rule: str) -> None:
    sources = several(rule)
    share = 1.0 if rule == "sum" else 1 / sum(each.weight for each in sources)
    made = merge(rule, *sources)
    x = np.random.default_rng(0).standard_normal((5, SHAPE[1]))
    for module in MODULES:
        expected = sum(share * each.weight * (x @ dense_update(each, module).T) for each in sources)
        np.testing.assert_allclose(x @ dense_merged(made, module).T, expected, atol=1e-5)


def test_factors_side_by_side_are_the_sum_of_updates() -> None:
    sources = [source(seed, 2, lora_alpha=2) for seed in range(3)]
    a = torch.cat([each.tensors[name(MODULE, "A")] for each in sources])
    b = torch.cat([each.tensors[name(MODULE, "B")] for each in sources], dim=1)
    np.testing.assert_allclose(dense_merged(merge("sum", *sources), MODULE), np.asarray(b @ a), atol=1e-9)


def test_means_of_the_factors_are_not_the_mean_of_updates() -> None:
    sources = [source(seed, 2, lora_alpha=2) for seed in range(3)]
    a, b = (torch.stack([each.tensors[name(MODULE, f)] for each in sources]).mean(0) for f in "AB")
    mean = dense_merged(merge("average", *sources), MODULE)
    assert np.linalg.norm(np.asarray(b @ a) - mean) > 0.5 * np.linalg.norm(mean)


@settings(max_examples=10, deadline=None)
@given(SEEDS)
def test_ties_has_the_elected_signs_and_no_more_entries_than_were_kept(seed: int) -> None:
    sources = [source(seed + place, 2) for place in range(3)]
    made = dense_merged(merge("ties", *sources, density=0.3, **FULL), MODULE)
    kept = []
    for each in sources:
        update = dense_update(each, MODULE)
        smallest = np.sort(np.abs(update).ravel())[-int(0.3 * update.size)]
        kept.append(np.where(np.abs(update) >= smallest, update, 0))
    there = np.abs(made) > 1e-9
    assert (np.sign(made)[there] == np.sign(sum(kept))[there]).all()
    assert not (there & ~np.any([each != 0 for each in kept], axis=0)).any()


def test_over_2000_masks_dare_is_the_sum_within_three_standard_errors() -> None:
    one = source(0, 2, modules=MODULES[:1], shape=(3, 4))
    density, seeds = 0.3, 2000
    target = dense_update(one, MODULES[0], (3, 4))
    rule = make_rule("dare", {"density": density, "space": "delta"})
    drawn = [_entries(rule, one, seed) for seed in range(seeds)]
    error = np.abs(np.mean(drawn, axis=0) - target)
    expected = np.abs(target) * np.sqrt((1 - density) / density / seeds)
    assert (error <= 3 * expected).mean() > 0.95
    assert np.sqrt(np.mean((error / expected) ** 2)) < 1.5


def _entries(rule: object, one: Source, seed: int) -> Dense:
    b, a = one.tensors[name(MODULES[0], "B")], one.tensors[name(MODULES[0], "A")]
    from contpeft.merging import Site

    scale = one.config["lora_alpha"] / one.config["r"]
    where = Site(MODULES[0], ((b, a, scale),), (1.0,), (one.digest,), (0,), 1.0, 1, seed)
    update = (scale * b @ a)[None]
    return np.asarray(rule.entries(update, where))  # type: ignore[attr-defined]


@settings(max_examples=10, deadline=None)
@given(SEEDS)
def test_opcm_keeps_the_mean_norm_and_adds_what_is_orthogonal_to_the_merge(seed: int) -> None:
    one, two = source(seed, 3), source(seed + 1, 3)
    made = fuse([one, two], Fusion(make_rule("opcm")))
    norms = [norm([dense_update(each, module) for module in MODULES]) for each in (one, two)]
    assert made.norm == pytest.approx(float(np.mean(norms)), rel=1e-4)
    factor = made.learned["factor"]
    for module in MODULES:
        before = dense_update(one, module)
        added = dense_merged(made, module) / factor - before
        assert abs(np.sum(before * added)) < 1e-8 * np.sum(before**2)


def test_of_equal_adapters_the_mean_is_one_the_sum_all_and_ties_one_trimmed() -> None:
    one = source(3, 2)
    copies = [Source(**{**vars(one), "digest": f"{place:064d}"}) for place in range(3)]
    update = dense_update(one, MODULE)
    np.testing.assert_allclose(dense_merged(merge("average", *copies), MODULE), update, atol=1e-9)
    np.testing.assert_allclose(dense_merged(merge("sum", *copies), MODULE), 3 * update, atol=1e-9)
    alone = merge("ties", one, density=0.4, **FULL)
    np.testing.assert_allclose(
        dense_merged(merge("ties", *copies, density=0.4, **FULL), MODULE),
        dense_merged(alone, MODULE),
        atol=1e-9,
    )
