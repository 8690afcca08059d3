"""A LoRA adapter in the one form that every serving engine reads alike.

Engines know one rank and one scaling for a whole adapter and pass over what they do not know without
a word: patterns of ranks and alphas, rank-stabilised scaling, layers that lack a module type which
others have. So the scaling goes into the factors, ranks are filled up with zeros, and layers that
have no factors get zero ones. What the adapter computes stays the same up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from contpeft.adapters.methods import VOLATILE, config_from_json, config_to_json
from contpeft.errors import BaseMismatchError, UnsupportedError, UsageError
from contpeft.spec import AdapterState
from contpeft.spec.lora import ROOT, lora_scaling

__all__ = ["serving_state"]

# What an engine may be told to expect at most, such as vLLM's max_lora_rank.
RANKS: Final = (1, 8, 16, 32, 64, 128, 256, 320, 512)

# Options whose effect is in the factors afterwards, or that have none once training is over.
_FOLDED: Final[dict[str, Any]] = {
    "alpha_pattern": {},
    "exclude_modules": None,
    "init_lora_weights": True,
    "layers_pattern": None,
    "layers_to_transform": None,
    "lora_dropout": 0.0,
    "rank_pattern": {},
    "use_rslora": False,
}
_KEPT: Final = ("auto_mapping", "fan_in_fan_out", "peft_type", "target_modules")
_SIZES: Final = ("lora_alpha", "r")
_A, _B = ".lora_A.weight", ".lora_B.weight"

_Pair = tuple[Tensor, Tensor]


def serving_state(state: AdapterState, model: nn.Module | None = None) -> AdapterState:
    """Returns a LoRA adapter with one rank, no scaling, and factors for every layer of its module types.

    The factors become ``(alpha / r) B`` and ``A``, with ``alpha / sqrt(r)`` where the scaling is
    rank-stabilised, and zero rows and columns up to the next rank that engines offer. The product
    is computed in float64 and rounded to the factors' own type once.

    Args:
        state: the adapter.
        model: the model it was trained on, also one on the meta device: its names and shapes are
            read, no value. Needed when the configuration does not say by plain module types which
            layers the adapter has, so that there may be others.

    Raises:
        UnsupportedError: if it is no LoRA adapter, or has an option that engines have no place for.
        UsageError: if it cannot be told without ``model`` which layers lack factors.
        BaseMismatchError: if ``model`` has no place for the adapter.
    """
    _check_plain(state)
    config: Any = config_from_json(state.config)
    pairs = {module: _folded(state.config, module, pair) for module, pair in _pairs(state).items()}
    rank = _served_rank(max(len(a) for a, _ in pairs.values()))
    types = sorted({module.rpartition(".")[2] for module in pairs})
    if model is not None:
        pairs |= _untouched(pairs, model, types)
    elif not _covers_its_types(config):
        raise UsageError(
            "which layers the adapter leaves out cannot be told from its targets; "
            "give the base (--base FOLDER), whose layers can be counted"
        )
    told = dict(state.config) | _FOLDED | {"r": rank, "lora_alpha": rank, "target_modules": types}
    return AdapterState("lora", told, dict(_padded(pairs, rank)))


def _check_plain(state: AdapterState) -> None:
    if state.kind != "lora":
        raise UnsupportedError(
            f"engines serve LoRA adapters, and this one is of method {state.kind!r}; "
            "export it with the profile 'faithful'"
        )
    usual = config_to_json(type(config_from_json(state.config))())
    known = {*_FOLDED, *_KEPT, *_SIZES, *VOLATILE}
    for option, value in state.config.items():
        if option not in known and value != usual[option]:
            raise UnsupportedError(
                f"engines have no place for option {option}={value!r}; export it with the profile 'faithful'"
            )


def _pairs(state: AdapterState) -> dict[str, _Pair]:
    """Returns the factors ``(r, in)`` and ``(out, r)`` of each module."""
    tensors = state.adapter_tensors()
    for name, tensor in tensors.items():
        if not (name.startswith(ROOT) and name.endswith((_A, _B)) and tensor.ndim == 2):
            raise UnsupportedError(
                f"engines serve factors of linear layers, not {name!r} of shape {tuple(tensor.shape)}; "
                "export it with the profile 'faithful'"
            )
    modules = [name.removeprefix(ROOT).removesuffix(_A) for name in tensors if name.endswith(_A)]
    return {each: (tensors[f"{ROOT}{each}{_A}"], tensors[f"{ROOT}{each}{_B}"]) for each in modules}


def _folded(config: Mapping[str, Any], module: str, pair: _Pair) -> _Pair:
    return pair[0], (pair[1].double() * lora_scaling(config, module)).to(pair[1].dtype)


def _served_rank(rank: int) -> int:
    served = next((each for each in RANKS if each >= rank), None)
    if served is None:
        raise UnsupportedError(f"engines serve adapters up to rank {RANKS[-1]}, this one has {rank}")
    return served


def _covers_its_types(config: Any) -> bool:
    """Returns whether the targets are module types, which PEFT applies to every module of that type."""
    targets = config.target_modules
    narrowed = config.layers_to_transform is not None or config.exclude_modules
    return not isinstance(targets, str) and not narrowed and not any("." in each for each in targets)


def _untouched(pairs: Mapping[str, _Pair], model: nn.Module, types: list[str]) -> dict[str, _Pair]:
    """Returns zero factors of rank 1 for the modules of these types that have none."""
    shapes = {name: _shape(name, each) for name, each in model.named_modules() if _type(name) in types}
    for module, (a, b) in pairs.items():
        if shapes.get(module) != (a.shape[1], b.shape[0]):
            raise BaseMismatchError(
                f"the adapter changes {module!r} from {a.shape[1]} to {b.shape[0]} values, and "
                f"{type(model).__name__} has no such layer; give the base it was trained on"
            )
    dtype = next(iter(pairs.values()))[0].dtype
    missing = {name: shape for name, shape in shapes.items() if name not in pairs}
    return {
        name: (torch.zeros(1, width, dtype=dtype), torch.zeros(height, 1, dtype=dtype))
        for name, (width, height) in missing.items()
    }


def _type(name: str) -> str:
    return name.rpartition(".")[2]


def _shape(name: str, module: nn.Module) -> tuple[int, int]:
    """Returns how many values a linear layer takes and gives."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if isinstance(module, Conv1D):
        return module.nx, module.nf
    raise UnsupportedError(
        f"{name!r} is a {type(module).__name__} of a type the adapter targets, and engines serve linear "
        "layers alone; export it with the profile 'faithful'"
    )


def _padded(pairs: Mapping[str, _Pair], rank: int) -> Iterator[tuple[str, Tensor]]:
    for module, (a, b) in sorted(pairs.items()):
        yield f"{ROOT}{module}{_A}", F.pad(a, (0, 0, 0, rank - len(a)))
        yield f"{ROOT}{module}{_B}", F.pad(b, (0, rank - b.shape[1]))
