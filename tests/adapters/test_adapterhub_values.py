"""The format's own maths and rules: value matrices to the last bit, names, what older releases mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from contpeft.adapters.adapterhub import check_name, module_prefix, renewed, renewed_names
from contpeft.adapters.adapterhub.config import meaning
from contpeft.adapters.adapterhub.fusion import offset_of, weight_of
from contpeft.errors import SpecError, UnsupportedError

# A diagonal is near 1, or at least not below the last bit of 1 in float64.
DIAGONAL = st.one_of(
    st.floats(0.25, 4, width=32), st.floats(-4, -(2**-20), width=32), st.floats(2**-26, 1, width=32)
)
ANYTHING = st.floats(-(2**90), 2**90, width=32)
SEQ_BN = {"mh_adapter": False, "output_adapter": True, "original_ln_before": True, "reduction_factor": 16}


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().numpy().tobytes()


@settings(max_examples=150)
@given(hnp.arrays(np.float32, (3, 3), elements=ANYTHING), st.lists(DIAGONAL, min_size=3, max_size=3))
def test_a_value_matrix_comes_back_bit_for_bit(values: Any, diagonal: list[float]) -> None:
    weight = torch.from_numpy(values.copy())
    weight.diagonal().copy_(torch.tensor(diagonal))
    offset = offset_of(weight, "value")
    assert bits(weight_of(offset, weight.dtype)) == bits(weight)
    exact = weight.double() - torch.eye(3, dtype=torch.float64)
    np.testing.assert_allclose(offset.double().numpy(), exact.numpy(), rtol=1e-6, atol=1e-12)


def test_a_fresh_value_matrix_needs_no_more_than_its_own_type() -> None:
    weight = torch.full((4, 4), 1e-6).fill_diagonal_(1.0)
    offset = offset_of(weight, "value")
    assert offset.dtype == torch.float32
    assert bits(weight_of(offset, torch.float32)) == bits(weight)


@pytest.mark.parametrize("entry", [0.1, 3.3, -0.7, 1e-7])
def test_a_diagonal_away_from_one_takes_more_digits(entry: float) -> None:
    weight = torch.eye(2) * entry
    offset = offset_of(weight, "value")
    assert bits(weight_of(offset, torch.float32)) == bits(weight)
    assert offset.dtype in (torch.float32, torch.float64)


def test_signs_of_zeros_off_the_diagonal_stay() -> None:
    weight = torch.tensor([[1.0, -0.0], [0.0, 1.0]])
    assert bits(weight_of(offset_of(weight, "value"), torch.float32)) == bits(weight)


def test_half_precision_is_widened_where_it_must() -> None:
    weight = torch.tensor([[0.1, 2.0], [1e-6, 1.5]], dtype=torch.float16)
    offset = offset_of(weight, "value")
    assert offset.dtype == torch.float32
    assert bits(weight_of(offset, torch.float16)) == bits(weight)


def test_a_diagonal_that_cannot_be_kept_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="the diagonal of 'value' has an entry so near 0"):
        offset_of(torch.eye(2) * 1e-20, "value")


@pytest.mark.parametrize("name", ["", "a b", "a/b", "é", "a" * 129, None, 3])
def test_names_that_adapterhub_cannot_keep(name: Any) -> None:
    with pytest.raises(SpecError, match="it is named"):
        check_name(name, "it")


@pytest.mark.parametrize("name", ["type", "forward", "keys", "T_destination"])
def test_names_that_torch_has_taken(name: str) -> None:
    with pytest.raises(SpecError, match=f"named '{name}', as torch's modules"):
        check_name(name, "it")


def test_a_stored_version_tells_its_prefix() -> None:
    assert module_prefix(["base_model.model.bert.encoder.layer.0.output.x"]) == "bert."
    assert module_prefix(["base_model.model.encoder.layer.0.output.x"]) == ""
    with pytest.raises(UnsupportedError, match=r"'base_model.model.transformer.h.0.mlp.x' is of another"):
        module_prefix(["base_model.model.transformer.h.0.mlp.x"])
    with pytest.raises(UnsupportedError, match="holds no adapter"):
        module_prefix([])


def old(config: Mapping[str, Any], **told: Any) -> dict[str, Any]:
    return renewed({"config": config, "name": "a,b", **told}, "file", allowed=True)


@pytest.mark.parametrize(("before", "now"), [("gelu", "gelu_new"), ("gelu_orig", "gelu"), ("relu", "relu")])
def test_activations_were_called_otherwise(before: str, now: str) -> None:
    assert old({"non_linearity": before})["config"] == {"non_linearity": now}
    kept = {"config": {"non_linearity": before}, "version": "adapters.1.0.0"}
    assert renewed(kept, "file", allowed=False) == kept


def test_invertible_adapters_were_nested() -> None:
    nested = {"block_type": "nice", "reduction_factor": 2}
    assert old({"invertible_adapter": nested}, version="1")["config"] == {"inv_adapter": "nice"}
    with pytest.raises(UnsupportedError, match="inv_adapter='nice' is not taken in"):
        meaning({**SEQ_BN, "non_linearity": "relu", "inv_adapter": "nice"})


@pytest.mark.parametrize(
    ("version", "alpha"),
    [
        ("adapters.1.0.1", 4),
        ("adapters.1.1.0", 16),
        ("adapters.1.3.0", 16),
        ("3.2.1", 16),
        ("adapters.0.9.9", 4),
    ],
)
def test_lora_was_without_its_alpha(version: str, alpha: int) -> None:
    config = {"architecture": "lora", "r": 4, "alpha": 16}
    assert old(config, version=version)["config"]["alpha"] == alpha
    equal = {"config": {**config, "alpha": 4}, "version": version}
    assert renewed(equal, "file", allowed=False) == equal


def test_a_version_that_is_none_is_refused() -> None:
    with pytest.raises(SpecError, match=r"file has version 'adapters.new', which is none"):
        renewed({"config": {"architecture": "lora", "r": 1, "alpha": 2}, "version": "adapters.new"}, "file",
                allowed=True)  # fmt: skip


def test_members_of_a_fusion_were_in_its_name_alone() -> None:
    assert old({"value_before_softmax": True}, version="2.0")["adapter_names"] == ["a", "b"]


def test_two_names_of_before_may_not_become_one() -> None:
    tensors = {
        f"x.{part}.a": torch.ones(1) for part in ("layer_text_task_adapters", "layer_text_lang_adapters")
    }
    with pytest.raises(SpecError, match=r"file has two tensors that are 'x.adapters.a' today"):
        renewed_names(tensors, "file", allowed=True)


def test_absent_options_are_the_librarys_defaults() -> None:
    found = meaning({**SEQ_BN, "non_linearity": "LeakyReLU"})
    assert (found.method, found.places, found.learned) == ("pfeiffer", ("output",), False)
    assert found.options == {
        "reduction_factor": 16, "non_linearity": "leaky_relu", "scaling": 1.0, "init_weights": "bert",
    }  # fmt: skip
    with pytest.raises(SpecError, match="the configuration has no 'non_linearity'"):
        meaning(SEQ_BN)


def test_equal_configurations_of_two_adapters_stay_two() -> None:
    """A Compacter adapter that is met first does not make a plain one into another (or the reverse)."""
    plain = {**SEQ_BN, "non_linearity": "gelu", "phm_layer": False}
    with pytest.raises(UnsupportedError, match="phm_layer=True"):
        meaning({**plain, "phm_layer": True})
    assert meaning(plain).method == "pfeiffer"
