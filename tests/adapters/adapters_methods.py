"""Every method, as tests on layers 16 wide make them."""

from __future__ import annotations

from typing import Any

import pytest

from contpeft.adapters import method_names
from contpeft.adapters.presets import PRESETS
from contpeft.adapters.prompts import PROMPT_METHODS
from contpeft.spec import AdapterSpec

# What a method needs on layers 16 wide.
OPTIONS: dict[str, dict[str, Any]] = {
    "adalora": {"total_step": 10},
    "boft": {"boft_block_size": 4},
    "c3a": {"block_size": 4},
    "compacter": {"reduction_factor": 4, "phm_dim": 2},
    "fourierft": {"n_frequency": 20},
    "mam": {"num_virtual_tokens": 4, "reduction_factor": 4},
    "miss": {"r": 4},
    "oft": {"oft_block_size": 4},
    "p_tuning": {"num_virtual_tokens": 4},
    "p_tuning_v2": {"num_virtual_tokens": 4},
    "prefix_tuning": {"num_virtual_tokens": 4},
    "prompt_tuning": {"num_virtual_tokens": 4},
    "psoft": {"r": 4},
    "road": {"group_size": 4},
    "shira": {"r": 2},
    "trainable_tokens": {"token_indices": [1, 2]},
    "unipelt": {"num_virtual_tokens": 4, "reduction_factor": 4},
    "vblora": {"vector_length": 4, "num_vectors": 8, "topk": 2},
    "vera": {"r": 4},
    "waveft": {"n_frequency": 20},
}
quiet = pytest.mark.filterwarnings(
    "ignore:Failed to load the CUDA extension:UserWarning",
    "ignore:Setting boft_n_butterfly_factor to 1:UserWarning",
    "ignore:Sparse invariant checks are implicitly disabled:UserWarning",
    "ignore:Unsupported layer type:UserWarning",
)
PROMPTS = sorted({*PROMPT_METHODS, "p_tuning_v2"})
_PARTS = ("query", "value")
_HALVES = {f"{part}.lora_{ab}.current.parametrizations.weight.original" for part in _PARTS for ab in "AB"}
# Trains other parameters than the method of PEFT that its layers are of.
OTHERWISE_TRAINED = {
    "lora-fa": {f"{part}.lora_B.current.weight" for part in _PARTS},
    "olora": _HALVES,
    "pissa": _HALVES,
}
each_method = pytest.mark.parametrize("method", method_names())
# Those that PEFT builds as a set of layers.
each_set_of_layers = pytest.mark.parametrize(
    "method", sorted({*method_names()} - {*PROMPT_METHODS, *PRESETS})
)
# Those that PEFT has under the same name.
each_of_peft = pytest.mark.parametrize("method", sorted({*method_names()} - {*PRESETS}))


def spec(method: str) -> AdapterSpec:
    return AdapterSpec(method, **OPTIONS.get(method, {}))
