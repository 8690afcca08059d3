"""Whole adapters: configurations, budgets, methods, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from merging_sources import MODULES, assert_equal, dense_merged, dense_update, merge, name, several, source

from contpeft.errors import NotFoundError, SpecError, UnsupportedError
from contpeft.merging import RULES, Fusion, Source, fuse, make_rule, rules_for
from contpeft.spec.lora import ROOT


def test_the_result_has_scaling_1_and_its_own_ranks() -> None:
    config = merge("sum", *several("sum")).config
    # 3 + 2 + 4 where all three are, 3 + 2 where two are.
    assert (config["r"], config["lora_alpha"]) == (9, 9)
    assert config["rank_pattern"] == config["alpha_pattern"] == {"layer.1.query": 5}
    assert config["use_rslora"] is False if "use_rslora" in config else True
    assert config["target_modules"] == ["query", "value"]


def test_modules_that_targets_do_not_tell_are_named_one_by_one() -> None:
    narrow = source(0, modules=MODULES[:1], target_modules=["query"], layers_to_transform=[0])
    config = merge("sum", narrow, source(1, modules=MODULES[:1], target_modules=["query"])).config
    assert config["target_modules"] == [MODULES[0]]
    assert config["layers_to_transform"] is None


def test_a_module_whose_merge_is_zero_is_left_out() -> None:
    one = source(0)
    tensors = {
        key: torch.zeros_like(value) if MODULES[0] in key else value for key, value in one.tensors.items()
    }
    merged = merge("sum", replace(one, tensors=tensors))
    assert merged.config["target_modules"] == sorted(MODULES[1:])
    assert not any(MODULES[0] in key for key in merged.tensors)


def test_adapters_that_cancel_leave_nothing_to_store() -> None:
    with pytest.raises(SpecError, match="zero everywhere"):
        merge("sum", source(0, weight=1.0), replace(source(0), label="b@1", weight=-1.0))


def test_a_path_that_ends_another_path_means_one_module_in_a_pattern() -> None:
    modules = ("q", "x.q", "y.v")
    given = [source(0, 2, modules=modules), source(1, 3, modules=modules[:1])]
    config = merge("sum", *given).config
    assert config["rank_pattern"] == {"^q": 5}


def test_bytes_and_total_ranks_are_held_over_all_modules() -> None:
    whole = merge("sum", *several("sum"))
    total = merge("sum", *several("sum"), rank="total:7")
    assert sum(module.rank for module in total.modules) == 7
    small = merge("sum", *several("sum"), rank="bytes:1kB")
    # A rank costs 25 float64 values here, 200 bytes.
    assert sum(tensor.nbytes for tensor in small.tensors.values()) == 1000
    spectra = torch.cat([_singular(whole, module) for module in MODULES]).sort(descending=True).values
    assert total.error == pytest.approx(float(spectra[7:].norm()))


def _singular(merged: object, module: str) -> torch.Tensor:
    values: torch.Tensor = torch.linalg.svdvals(torch.from_numpy(dense_merged(merged, module)))  # type: ignore[arg-type]
    return values


def test_same_keeps_the_highest_rank_of_the_inputs() -> None:
    merged = merge("sum", *several("sum"), rank="same")
    assert [module.rank for module in merged.modules] == [4, 4, 3]
    assert [module.inputs for module in merged.modules] == [3, 3, 2]


def test_half_precision_comes_out_as_it_went_in() -> None:
    given = [source(seed, 3, dtype=torch.bfloat16) for seed in range(2)]
    merged = merge("sum", *given)
    assert {tensor.dtype for tensor in merged.tensors.values()} == {torch.bfloat16}
    mixed = merge("sum", given[0], source(1, 3, dtype=torch.float32))
    assert {tensor.dtype for tensor in mixed.tensors.values()} == {torch.float32}


def test_convolutions_and_embeddings_keep_their_shapes() -> None:
    generator = torch.Generator().manual_seed(0)

    def adapter(seed: int) -> Source:
        tensors = {
            f"{ROOT}conv.lora_A.weight": torch.randn(2, 3, 5, 5, generator=generator),
            f"{ROOT}conv.lora_B.weight": torch.randn(4, 2, 1, 1, generator=generator),
            f"{ROOT}words.lora_embedding_A": torch.randn(2, 30, generator=generator),
            f"{ROOT}words.lora_embedding_B": torch.randn(6, 2, generator=generator),
        }
        config = {"r": 2, "lora_alpha": 2, "target_modules": ["conv", "words"]}
        return Source(f"a{seed}", f"{seed}", "lora", config, tensors)

    one, two = adapter(1), adapter(2)
    merged = merge("sum", one, two)
    shapes = {key.removeprefix(ROOT): tuple(tensor.shape) for key, tensor in merged.tensors.items()}
    assert shapes == {
        "conv.lora_A.weight": (4, 3, 5, 5),
        "conv.lora_B.weight": (4, 4, 1, 1),
        "words.lora_embedding_A": (4, 30),
        "words.lora_embedding_B": (6, 4),
    }
    for factor_a, factor_b in (("conv.lora_A.weight", "conv.lora_B.weight"), tuple(shapes)[2:]):
        products = [
            each.tensors[ROOT + factor_b].flatten(1).double()
            @ each.tensors[ROOT + factor_a].flatten(1).double()
            for each in (one, two, replace(one, tensors=merged.tensors))
        ]
        np.testing.assert_allclose(products[2], products[0] + products[1], atol=1e-5)


def scalings(seed: int, **told: object) -> Source:
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        f"{ROOT}value.ia3_l": 1 + torch.randn(6, 1, generator=generator, dtype=torch.float64),
        f"{ROOT}output.ia3_l": 1 + torch.randn(1, 9, generator=generator, dtype=torch.float64),
    }
    config = {"peft_type": "IA3", "target_modules": ["value", "output"], **told}
    return Source(f"s{seed}@1", f"{seed}", "ia3", config, tensors)


def test_scalings_are_merged_by_how_far_they_are_from_1() -> None:
    one, two = scalings(0), replace(scalings(1), weight=0.5)
    merged = merge("sum", one, two)
    for key, value in merged.tensors.items():
        expected = 1 + (one.tensors[key] - 1) + 0.5 * (two.tensors[key] - 1)
        assert value.shape == one.tensors[key].shape
        np.testing.assert_allclose(value, expected, atol=1e-12)
    assert merged.config == dict(one.config)
    half = merge("sum", replace(one, weight=0.5))
    np.testing.assert_allclose(
        half.tensors[f"{ROOT}value.ia3_l"], 0.5 + 0.5 * one.tensors[f"{ROOT}value.ia3_l"]
    )


@pytest.mark.parametrize("rule", ["sum", "average", "karcher", "magmax"])
def test_one_adapter_of_scalings_is_itself(rule: str) -> None:
    one = scalings(0)
    merged = merge(rule, one)
    for key, value in merged.tensors.items():
        np.testing.assert_allclose(value, one.tensors[key], atol=1e-12)


def test_ties_of_scalings_is_ties_of_their_entries() -> None:
    one, two = scalings(0), scalings(1)
    merged = merge("ties", one, two, density=1.0)
    for key, value in merged.tensors.items():
        a, b = one.tensors[key] - 1, two.tensors[key] - 1
        expected = torch.where(
            a * b > 0, (a + b) / 2, torch.where(a + b >= 0, torch.maximum(a, b), torch.minimum(a, b))
        )
        np.testing.assert_allclose(value, 1 + expected, atol=1e-12)


def test_a_rule_on_matrices_refuses_vectors_by_name() -> None:
    with pytest.raises(UnsupportedError, match="rule 'tsv' cannot merge vectors of 'ia3'; use 'sum'"):
        merge("tsv", scalings(0), scalings(1))


def test_replacements_have_a_mean_and_no_sum() -> None:
    tensors = [{f"{ROOT}norm.ln_tuning_layers.weight": torch.full((4,), value)} for value in (1.0, 3.0)]
    given = [Source(f"n{i}", f"{i}", "ln_tuning", {}, each) for i, each in enumerate(tensors)]
    assert next(iter(merge("average", *given).tensors.values())).tolist() == [2.0] * 4
    with pytest.raises(
        UnsupportedError, match="rule 'sum' cannot merge vectors of 'ln_tuning'; use 'average'"
    ):
        merge("sum", *given)


def bottleneck(seed: int, kind: str = "pfeiffer", width: int = 2, **told: Any) -> Source:
    generator = torch.Generator().manual_seed(seed)
    site = f"{ROOT}layer.0.output.LayerNorm.bottleneck"
    tensors = {
        f"{site}_down.weight": torch.randn(width, 6, generator=generator),
        f"{site}_down.bias": torch.randn(width, generator=generator),
        f"{site}_up.weight": torch.randn(6, width, generator=generator),
        f"{site}_up.bias": torch.randn(6, generator=generator),
    }
    return Source(f"b{seed}@1", f"{seed}", kind, {"peft_type": kind.upper(), **told}, tensors)


@pytest.mark.parametrize("kind", ["adamix", "houlsby", "parallel", "pfeiffer"])
def test_the_mean_of_networks_is_that_of_their_parameters(kind: str) -> None:
    alone = merge("average", bottleneck(0, kind))
    assert all(torch.equal(value, bottleneck(0, kind).tensors[key]) for key, value in alone.tensors.items())
    assert (alone.kind, alone.config) == (kind, dict(bottleneck(0, kind).config))
    one, two = bottleneck(0, kind), replace(bottleneck(1, kind), weight=3.0)
    merged = merge("average", one, two)
    assert merged.tensors.keys() == one.tensors.keys()
    for key, value in merged.tensors.items():
        torch.testing.assert_close(value, (one.tensors[key] + 3 * two.tensors[key]) / 4)


def test_networks_that_are_not_alike_have_no_mean() -> None:
    with pytest.raises(
        UnsupportedError, match="rule 'sum' cannot merge vectors of 'pfeiffer'; use 'average'"
    ):
        merge("sum", bottleneck(0), bottleneck(1))
    with pytest.raises(SpecError, match="b0@1 and b1@1 have other tensors; only equal ones are merged"):
        merge("average", bottleneck(0), bottleneck(1, width=3))
    with pytest.raises(SpecError, match="b0@1 and b1@1 differ in configuration"):
        merge("average", bottleneck(0, scaling=1.0), bottleneck(1, scaling=2.0))


def test_trained_biases_are_added_or_averaged() -> None:
    key = f"{ROOT}dense.bitfit_bias"
    given = [Source(f"b{i}", f"{i}", "bitfit", {}, {key: torch.full((4,), i + 1.0)}) for i in range(2)]
    assert merge("sum", *given).tensors[key].tolist() == [3.0] * 4
    assert merge("average", *given).tensors[key].tolist() == [1.5] * 4


def test_rules_are_known_by_method() -> None:
    assert rules_for("lora") == tuple(RULES)
    assert rules_for("pfeiffer") == rules_for("ln_tuning") == ("average",)
    assert {"sum", "average", "ties"} <= set(rules_for("bitfit")) < set(RULES)
    assert rules_for("compacter") == rules_for("vera") == ()


def test_other_methods_are_refused_by_name() -> None:
    given = replace(source(0), kind="vera")
    with pytest.raises(
        UnsupportedError, match=r"a0@1 is of method 'vera', .* ia3, ln_tuning, lora, parallel, pf"
    ):
        merge("average", given, replace(given, label="b@1"))
    with pytest.raises(
        UnsupportedError, match="different methods have no merge: s0@1 is of method 'ia3', a0@1"
    ):
        merge("sum", source(0), scalings(0))


def test_refusals_name_the_adapter() -> None:
    with pytest.raises(UnsupportedError, match="a1@1: an adapter with use_dora=True rescales"):
        merge("sum", source(0), source(1, use_dora=True))
    with pytest.raises(
        UnsupportedError, match="a0@1 has fan_in_fan_out=None and a1@1 has fan_in_fan_out=True"
    ):
        merge("sum", source(0), source(1, fan_in_fan_out=True))
    with pytest.raises(
        SpecError, match=r"'layer\.0\.query' has updates of 14 x 11 in a0@1 and of 14 x 12 in a1@1"
    ):
        merge("sum", source(0), source(1, shape=(14, 12)))
    with pytest.raises(UnsupportedError, match="rule 'regmean' needs 'gram' of a0@1"):
        merge("regmean", replace(source(0), moments={}))


def test_a_value_that_is_not_finite_is_refused() -> None:
    bad = source(0)
    tensors = {key: value.clone() for key, value in bad.tensors.items()}
    tensors[name(MODULES[0], "A")][0, 0] = float("nan")
    with pytest.raises(SpecError, match="NaN or infinite"):
        merge("sum", replace(bad, tensors=tensors), source(1))


@pytest.mark.parametrize(
    ("sources", "told"),
    [([], "there is no adapter"), ([source(0, weight=0.0)], "all weights are 0")],
)
def test_nothing_to_merge_is_said(sources: list[Source], told: str) -> None:
    with pytest.raises(SpecError, match=told):
        fuse(sources, Fusion(make_rule("sum")))


def test_rules_and_parameters_are_found_by_name() -> None:
    with pytest.raises(NotFoundError, match="no merging rule 'tvs'; did you mean 'tsv'"):
        make_rule("tvs")
    with pytest.raises(SpecError, match="rule 'ties' has no parameter 'densty'; did you mean 'density'"):
        make_rule("ties", {"densty": 0.3})
    with pytest.raises(
        SpecError, match=r"rule 'ties' refuses parameter density='3': .* less than or equal to 1"
    ):
        make_rule("ties", {"density": "3"})
    with pytest.raises(
        SpecError, match="rule 'della' refuses the parameters: density - spread must be above 0"
    ):
        make_rule("della", {"density": 0.1})
    assert make_rule("ties", {"density": "0.3"}).parameters()["density"] == 0.3


def test_a_rule_tells_what_it_is() -> None:
    assert str(make_rule("ties")) == "ties(density=0.2, trim=module, divide=count, scale=1.0, space=core)"


def test_float32_is_near_float64() -> None:
    given = [source(seed, 3, dtype=torch.float32) for seed in range(3)]
    exact = merge("tsv", *given)
    assert_equal(fuse(given, Fusion(make_rule("tsv"), dtype=torch.float32)), exact, tolerance=1e-5)
    assert dense_update(given[0], MODULES[0]).dtype == np.float64
