from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft.utils.other import get_pattern_key

from contpeft.errors import SpecError, UnsupportedError
from contpeft.merging.layout import find_factors
from contpeft.spec.lora import ROOT, lora_rank, lora_scaling

QUERY = f"{ROOT}layer.0.query"
NAMES = [f"{QUERY}.lora_A.weight", f"{QUERY}.lora_B.weight"]
CONFIG = {"r": 4, "lora_alpha": 8}


@given(
    st.dictionaries(
        st.sampled_from(["query", "layer.1.query", r"layer\.\d+\.value", "0.query"]), st.integers()
    ),
    st.sampled_from(["layer.0.query", "layer.1.query", "layer.11.query", "layer.1.value", "xquery"]),
)
def test_a_pattern_means_what_peft_takes_it_for(pattern: dict[str, int], module: str) -> None:
    expected = pattern.get(get_pattern_key(list(pattern), module), 4)
    assert lora_rank({"r": 4, "rank_pattern": pattern}, module) == expected


def test_scaling_goes_by_rank_or_its_root_and_by_patterns() -> None:
    patterns = {"rank_pattern": {"query": 16}, "alpha_pattern": {"query": 4}}
    assert lora_scaling(CONFIG, "layer.0.query") == 2.0
    assert lora_scaling({**CONFIG, "use_rslora": True}, "layer.0.query") == 4.0
    assert lora_scaling(CONFIG | patterns, "layer.0.query") == 0.25
    assert lora_scaling(CONFIG | patterns | {"use_rslora": True}, "layer.0.query") == 1.0


def test_factors_of_a_linear_layer_are_its_matrices() -> None:
    tensors = {NAMES[0]: torch.randn(4, 6), NAMES[1]: torch.randn(5, 4)}
    b, a, scale = find_factors("lora", CONFIG, tensors)["layer.0.query"].term(tensors)
    assert torch.equal(b, tensors[NAMES[1]])
    assert torch.equal(a, tensors[NAMES[0]])
    assert scale == 2.0


def test_factors_of_a_convolution_are_those_of_its_flattened_kernel() -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        NAMES[0]: torch.randn(4, 3, 2, 2, generator=generator, dtype=torch.float64),
        NAMES[1]: torch.randn(5, 4, 1, 1, generator=generator, dtype=torch.float64),
    }
    b, a, scale = find_factors("lora", CONFIG, tensors)["layer.0.query"].term(tensors)
    image = torch.randn(1, 3, 2, 2, generator=generator, dtype=torch.float64)
    through = torch.nn.functional.conv2d(
        torch.nn.functional.conv2d(image, tensors[NAMES[0]]), tensors[NAMES[1]]
    )
    np.testing.assert_allclose(scale * (b @ a) @ image.flatten(), 2 * through.flatten(), rtol=1e-12)


def test_factors_of_an_embedding_are_found() -> None:
    names = [f"{ROOT}words.lora_embedding_A", f"{ROOT}words.lora_embedding_B"]
    tensors = {names[0]: torch.randn(4, 50), names[1]: torch.randn(6, 4)}
    b, a, _ = find_factors("lora", CONFIG, tensors)["words"].term(tensors)
    assert (b @ a).shape == (6, 50)


@pytest.mark.parametrize("option", ["use_dora", "lora_bias", "trainable_token_indices"])
def test_what_is_more_than_two_factors_is_refused_by_name(option: str) -> None:
    with pytest.raises(UnsupportedError, match=f"an adapter with {option}=True .*cannot be merged"):
        find_factors("lora", {**CONFIG, option: True}, NAMES)


def test_another_method_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match="'vera' is no sum of low-rank updates"):
        find_factors("vera", CONFIG, NAMES)


def test_a_missing_factor_and_a_foreign_tensor_are_named() -> None:
    with pytest.raises(SpecError, match=r"factor b of 'layer\.0\.query' is missing"):
        find_factors("lora", CONFIG, NAMES[:1])
    with pytest.raises(SpecError, match=r"'base_model\.model\.x\.weight' is no factor"):
        find_factors("lora", CONFIG, [*NAMES, f"{ROOT}x.weight"])


def test_a_grouped_convolution_is_refused_by_name() -> None:
    tensors = {NAMES[0]: torch.randn(4, 3, 2, 2), NAMES[1]: torch.randn(8, 2, 1, 1)}
    with pytest.raises(UnsupportedError, match="grouped convolutions are not merged"):
        find_factors("lora", CONFIG, NAMES)["layer.0.query"].term(tensors)
