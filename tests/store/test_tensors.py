"""Tensors to bytes: the file safetensors would write, whatever the tensors are made of."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save

from contpeft.digest import tensors_digest
from contpeft.errors import TrainingError
from contpeft.store.tensors import describe, entries, serialize

DTYPES = "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool".split()  # noqa: SIM905
NAMES = st.text("abzAZ019_.-", min_size=1, max_size=12)
SHAPES = st.lists(st.integers(0, 4), max_size=3)
KINDS = st.dictionaries(NAMES, st.tuples(st.sampled_from(DTYPES), SHAPES), min_size=1, max_size=12)


def filled(dtype: str, shape: list[int], seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 100, shape, generator=generator).to(getattr(torch, dtype))


@given(kinds=KINDS)
def test_bytes_are_those_of_safetensors(kinds: dict[str, tuple[str, list[int]]]) -> None:
    tensors = {name: filled(*kind, seed) for seed, (name, kind) in enumerate(kinds.items())}
    data = serialize(tensors, "line")
    assert data == save(tensors, metadata={"format": "pt"})
    assert describe(data) == (
        tensors_digest(entries(data)),
        sum(math.prod(shape) for _, shape in kinds.values()),
    )


def test_memory_may_be_shared_scattered_or_of_a_parameter() -> None:
    square = torch.arange(16.0).reshape(4, 4)
    tensors = {
        "whole": square,
        "same": square,
        "turned": square.T,
        "row": square[1],
        "column": square[:, 1],
        "parameter": torch.nn.Parameter(square.clone()),
        "spread": torch.ones(1).expand(3),
    }
    found = load(serialize(tensors, "line"))
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_large_values_are_finite_and_hidden_ones_are_found(dtype: str) -> None:
    tensor = torch.full((100,), torch.finfo(getattr(torch, dtype)).max, dtype=getattr(torch, dtype))
    assert math.isinf(tensor.sum().item())
    assert torch.equal(load(serialize({"a": tensor}, "line"))["a"], tensor)
    for place, value in ((0, math.inf), (57, -math.inf), (99, math.nan)):
        broken = torch.zeros(100, dtype=tensor.dtype)
        broken[place] = value
        with pytest.raises(TrainingError, match="has 1 of 100 values that are NaN or infinite"):
            serialize({"a": broken}, "line")
    broken = torch.zeros(2, dtype=tensor.dtype)
    broken[0], broken[1] = math.inf, -math.inf
    with pytest.raises(TrainingError, match="has 2 of 2 values"):
        serialize({"a": broken}, "line")
