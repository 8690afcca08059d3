"""What holds for every rule, on adapters of mixed ranks, scalings and modules."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from merging_sources import (
    MODULES,
    NAMES,
    assert_equal,
    dense_merged,
    dense_update,
    merge,
    name,
    regauged_source,
    several,
    source,
)

from contpeft.errors import SpecError
from contpeft.merging import RULES, Merged

every_rule = pytest.mark.parametrize("rule", NAMES)
seeds = st.integers(min_value=0, max_value=10_000)


def same_bits(one: Merged, other: Merged) -> bool:
    return one.tensors.keys() == other.tensors.keys() and all(
        torch.equal(one.tensors[each], other.tensors[each]) for each in one.tensors
    )


@pytest.mark.parametrize("rule", [each for each in NAMES if RULES[each].spec.keeps_one])
@settings(max_examples=10, deadline=None)
@given(seed=seeds, rank=st.integers(1, 6), rslora=st.booleans())
def test_one_adapter_at_weight_1_is_itself(rule: str, seed: int, rank: int, rslora: bool) -> None:
    one = source(seed, rank, use_rslora=rslora)
    merged = merge(rule, one)
    for module in MODULES:
        np.testing.assert_allclose(dense_merged(merged, module), dense_update(one, module), atol=1e-9)


@every_rule
def test_the_order_of_adapters_changes_no_bit_unless_the_rule_goes_by_it(rule: str) -> None:
    given_ones = several(rule)
    there, back = merge(rule, *given_ones), merge(rule, *reversed(given_ones))
    assert same_bits(there, back) is not RULES[rule].spec.ordered


@pytest.mark.parametrize("rule", [each for each in NAMES if RULES[each].spec.gauge_free])
@settings(max_examples=5, deadline=None)
@given(seed=seeds)
def test_other_factors_of_the_same_adapters_change_nothing(rule: str, seed: int) -> None:
    given_ones = several(rule)
    others = [regauged_source(each, seed + place) for place, each in enumerate(given_ones)]
    assert_equal(merge(rule, *others), merge(rule, *given_ones), tolerance=1e-6)


@pytest.mark.parametrize("rule", [each for each in NAMES if not RULES[each].spec.gauge_free])
def test_rules_on_factors_depend_on_them_and_say_so(rule: str) -> None:
    given_ones = several(rule)
    others = [regauged_source(each, place) for place, each in enumerate(given_ones)]
    told = {"density": 0.9} if rule == "peft-ties" else {}
    before, after = (dense_merged(merge(rule, *each, **told), MODULES[0]) for each in (given_ones, others))
    assert np.linalg.norm(after - before) > 0.1 * np.linalg.norm(before)
    assert "depends on how updates are split" in RULES[rule].spec.variant


@every_rule
def test_an_adapter_of_weight_0_is_absent_to_the_last_bit(rule: str) -> None:
    first, second = several(rule, 2)
    absent = replace(several(rule)[-1], label="x@1", digest="x" * 64, weight=0.0)
    assert same_bits(merge(rule, first, second, absent), merge(rule, first, second))


@every_rule
def test_the_same_inputs_give_the_same_bytes_whatever_the_threads(rule: str) -> None:
    given_ones = several(rule)
    one = merge(rule, *given_ones, seed=3)
    torch.set_num_threads(2)
    try:
        assert same_bits(merge(rule, *given_ones, seed=3), one)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


@every_rule
def test_another_seed_changes_exactly_the_rules_that_draw(rule: str) -> None:
    given_ones = several(rule)
    groups = {"units": 3} if rule == "lego" else {}
    changed = not same_bits(
        merge(rule, *given_ones, seed=1, **groups), merge(rule, *given_ones, seed=2, **groups)
    )
    # Groups of k-means may come out the same from other beginnings.
    assert changed is RULES[rule].spec.seeded or rule == "lego"


@every_rule
@settings(max_examples=3, deadline=None)
@given(power=st.integers(-7, 3))
def test_scaling_all_adapters_scales_the_result(rule: str, power: int) -> None:
    sizes = [replace(each, tensors=_scaled(each.tensors, 10.0**power)) for each in several(rule)]
    large, small = merge(rule, *several(rule)), merge(rule, *sizes)
    for module in MODULES:
        np.testing.assert_allclose(
            dense_merged(small, module) / 10.0**power, dense_merged(large, module), rtol=1e-5, atol=1e-7
        )


@every_rule
def test_negative_weights_are_taken_or_refused_by_name(rule: str) -> None:
    given_ones = [*several(rule, 1), replace(several(rule, 2)[1], weight=-0.25)]
    if RULES[rule].spec.negative:
        assert np.isfinite(merge(rule, *given_ones).norm)
    else:
        with pytest.raises(SpecError, match=f"rule '{rule}' takes no negative weight, a1@1 has -0.25"):
            merge(rule, *given_ones)


@every_rule
def test_no_rule_changes_what_it_is_given(rule: str) -> None:
    given_ones = several(rule)
    before = [{key: value.clone() for key, value in each.tensors.items()} for each in given_ones]
    merge(rule, *given_ones)
    for each, kept in zip(given_ones, before, strict=True):
        assert all(torch.equal(each.tensors[key], kept[key]) for key in kept)


@settings(max_examples=30, deadline=None)
@given(seed=seeds, cut=st.integers(1, 5))
def test_two_halves_of_an_adapter_sum_to_it(seed: int, cut: int) -> None:
    whole = source(seed, 6)
    halves = []
    for place, part in enumerate((slice(0, cut), slice(cut, 6))):
        tensors = {}
        for module in MODULES:
            tensors[name(module, "A")] = whole.tensors[name(module, "A")][part]
            tensors[name(module, "B")] = whole.tensors[name(module, "B")][:, part]
        rank = len(tensors[name(MODULES[0], "A")])
        # alpha / r is 2 for the whole and must be for the halves.
        halves.append(replace(source(seed + place, rank), tensors=tensors))
    assert_equal(merge("sum", *halves), merge("sum", whole))


@pytest.mark.parametrize("rule", ["sum", "tsv", "ties", "iso-c", "wudi", "null-space", "opcm"])
def test_float32_adapters_as_small_as_rounding_survive(rule: str) -> None:
    tiny = [source(seed, 3, size=1e-7, dtype=torch.float32) for seed in range(3)]
    merged = merge(rule, *tiny)
    large = merge(rule, *(source(seed, 3) for seed in range(3)))
    for module in MODULES:
        expected = dense_merged(large, module)
        apart = np.linalg.norm(dense_merged(merged, module) / 1e-7 - expected) / np.linalg.norm(expected)
        assert apart < 1e-4
    assert merged.tensors[name(MODULES[0], "A")].dtype == torch.float32


@every_rule
@settings(max_examples=4, deadline=None)
@given(rank=st.sampled_from(["1", "2", "energy:0.7", "total:7", "bytes:900B", "same"]))
def test_the_reported_error_is_the_true_frobenius_error(rule: str, rank: str) -> None:
    given_ones = several(rule)
    whole, cut = merge(rule, *given_ones), merge(rule, *given_ones, rank=rank)
    apart = [dense_merged(whole, module) - dense_merged(cut, module) for module in MODULES]
    true = float(np.sqrt(sum(np.square(each).sum() for each in apart)))
    assert cut.error == pytest.approx(true, rel=1e-6, abs=1e-9)
    assert cut.norm == pytest.approx(whole.norm, rel=1e-9)


def _scaled(tensors: object, factor: float) -> dict[str, torch.Tensor]:
    assert isinstance(tensors, dict)
    return {key: value * factor if ".lora_B" in key else value for key, value in tensors.items()}
