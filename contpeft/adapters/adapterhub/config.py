"""What AdapterHub's configurations of adapters mean here, and the other way round.

Every key of theirs is known: it is taken over, or must have the one value that contpeft computes with, or
says only how training began (``init_weights`` and its seed) or how something absent would be.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from peft import LoraConfig

from contpeft.adapters.adapterhub.names import LORA_PLACES, activation_here
from contpeft.errors import SpecError, UnsupportedError

__all__ = ["Meaning", "bottleneck_config", "lora_config", "meaning"]

# Values that mean what contpeft computes, and what another one would be.
_FIXED: Final[Mapping[str, tuple[Any, str]]] = {
    "original_ln_after": (True, "the base's normalisation after the adapter left out"),
    "ln_before": (False, "a normalisation of its own before the adapter"),
    "ln_after": (False, "a normalisation of its own after the adapter"),
    "use_gating": (False, "a gate"),
    "residual_before_ln": (True, "another residual"),
    "adapter_residual_before_ln": (False, "another residual"),
    "inv_adapter": (None, "an invertible adapter at the embeddings"),
    "cross_adapter": (False, "adapters after cross-attention"),
    "dropout": (0.0, "dropout of what the adapter returns, in training only (0.0 answers the same)"),
    "phm_layer": (False, "Kronecker products for weights (Compacter)"),
    "stochastic_depth": (0.0, "layers left out by chance, in training only (0.0 answers the same)"),
}
# Says how an adapter began, or how something that is not there would be.
_UNUSED: Final[Mapping[str, Any]] = {
    "init_weights": "bert",
    "init_weights_seed": None,
    "inv_adapter_reduction_factor": None,
    "phm_dim": 4,
    "factorized_phm_W": True,
    "shared_W_phm": False,
    "shared_phm_rule": True,
    "factorized_phm_rule": False,
    "phm_c_init": "normal",
    "phm_init_range": 0.0001,
    "learn_phm": True,
    "hypercomplex_nonlinearity": "glorot-uniform",
    "phm_rank": 1,
    "phm_bias": True,
}
_TAKEN: Final[Mapping[str, Any]] = {
    "original_ln_before": False,
    "is_parallel": False,
    "scaling": 1.0,
    "leave_out": [],
}
_NEEDED: Final = ("mh_adapter", "output_adapter", "reduction_factor", "non_linearity")
_PLACED: Final = ("mh_adapter", "output_adapter", "original_ln_before", "is_parallel")
# The four above; a method; whether it sits after the attention, too.
_PLACEMENTS: Final[Mapping[tuple[bool, bool, bool, bool], tuple[str, bool | None]]] = {
    (False, True, True, False): ("pfeiffer", None),
    (True, True, False, False): ("houlsby", True),
    (False, True, False, False): ("houlsby", False),
    (False, True, False, True): ("parallel", None),
}
_LORA_FIXED: Final[Mapping[str, tuple[Any, str]]] = {
    "architecture": ("lora", "another method"),
    "composition_mode": ("add", "weights that are multiplied, as in (IA)3"),
    "use_gating": (False, "a gate"),
    "use_dora": (False, "trained magnitudes (DoRA)"),
    "vera_d": (None, "trained vectors between shared factors (VeRA)"),
    "vera_b": (None, "trained vectors between shared factors (VeRA)"),
}
_LORA_UNUSED: Final[Mapping[str, Any]] = {"init_weights": "lora", "init_weights_seed": None, "dtype": None}
_LORA_TAKEN: Final[Mapping[str, Any]] = {
    "selfattn_lora": True,
    "intermediate_lora": False,
    "output_lora": False,
    "leave_out": [],
    "r": 8,
    "alpha": 8,
    "dropout": 0.0,
    "attn_matrices": ["q", "v"],
}
_MATRICES: Final = {"q": LORA_PLACES[0], "k": LORA_PLACES[1], "v": LORA_PLACES[2]}
# Options of a LoRA that say where it is, which its tensors do as well, or that are taken over.
_LORA_FREE: Final = {
    "auto_mapping",
    "base_model_name_or_path",
    "exclude_modules",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    "peft_type",
    "peft_version",
    "r",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
}


@dataclass(frozen=True)
class Meaning:
    """What a configuration of AdapterHub's means here.

    Attributes:
        method: ours.
        options: its options, targets aside.
        places: AdapterHub's places in a layer that have an adapter.
        learned: whether the scaling is a tensor.
        leave_out: numbers of the layers without.
    """

    method: str
    options: Mapping[str, Any]
    places: tuple[str, ...]
    learned: bool
    leave_out: frozenset[int]


def meaning(config: Mapping[str, Any]) -> Meaning:
    """Returns what a configuration of AdapterHub's means.

    Raises:
        UnsupportedError: naming what contpeft does not have, or a key that it does not know.
        SpecError: if a value has no meaning.
    """
    kind = config.get("architecture")
    if kind == "lora":
        return _lora_meaning(config)
    if kind not in (None, "bottleneck"):
        raise UnsupportedError(
            f"architecture={kind!r} is not taken in; contpeft takes in bottleneck adapters and LoRA"
        )
    return _bottleneck_meaning(config)


def bottleneck_config(
    method: str, options: Mapping[str, Any], places: Collection[str], leave_out: Collection[int]
) -> dict[str, Any]:
    """Returns AdapterHub's configuration of a stored bottleneck adapter.

    Args:
        method: of the adapter.
        options: its stored configuration.
        places: AdapterHub's places in a layer that have an adapter.
        leave_out: numbers of the layers without.

    Raises:
        UnsupportedError: if it has no place for an option.
    """
    if options.get("dropout", 0.0) != 0.0:
        raise UnsupportedError(
            f"dropout={options['dropout']:g} of what an adapter reads is not in AdapterHub, which drops of "
            "what it returns; it cannot be exported"
        )
    if not options.get("residual", True):
        raise UnsupportedError("residual=False is not in AdapterHub; it cannot be exported")
    after = "attention.output" in places if method == "houlsby" else None
    flags = next(flags for flags, place in _PLACEMENTS.items() if place == (method, after))
    scaling = options["scaling"]
    began = "mam_adapter" if options.get("init_weights") == "lora" else "bert"
    return {
        **{key: value for key, (value, _) in _FIXED.items()},
        **_UNUSED,
        **dict(zip(_PLACED, flags, strict=True)),
        "init_weights": began,
        "leave_out": sorted(leave_out),
        "non_linearity": options["non_linearity"],
        "reduction_factor": options["reduction_factor"],
        "scaling": scaling if scaling == "learned" else float(scaling),  # an integer is refused there
    }


def lora_config(
    config: Mapping[str, Any], r: int, alpha: float, places: Collection[str], leave_out: Collection[int]
) -> dict[str, Any]:
    """Returns AdapterHub's configuration of a stored LoRA adapter.

    Args:
        config: the stored one.
        r: rank of all its modules.
        alpha: that of all its modules.
        places: its modules in every layer.
        leave_out: numbers of the layers without.

    Raises:
        UnsupportedError: if it has no place for an option.
    """
    usual = LoraConfig()
    known = {field.name for field in fields(LoraConfig)} - _LORA_FREE - {"rank_pattern", "alpha_pattern"}
    for option in sorted(known & set(config)):
        if config[option] != getattr(usual, option):
            raise UnsupportedError(
                f"{option}={config[option]!r} is not in AdapterHub's LoRA; it cannot be exported"
            )
    letters = [letter for letter, place in _MATRICES.items() if place in places]
    return {
        **{key: value for key, (value, _) in _LORA_FIXED.items()},
        **_LORA_UNUSED,
        "r": r,
        "alpha": alpha,
        "dropout": config["lora_dropout"],
        "selfattn_lora": bool(letters),
        "attn_matrices": letters or list(_LORA_TAKEN["attn_matrices"]),
        "intermediate_lora": LORA_PLACES[3] in places,
        "output_lora": LORA_PLACES[4] in places,
        "leave_out": sorted(leave_out),
    }


def _bottleneck_meaning(config: Mapping[str, Any]) -> Meaning:
    _check_keys(config, (*_FIXED, *_UNUSED, *_TAKEN, *_NEEDED, "architecture"), _NEEDED)
    _check_fixed(config, _FIXED)
    told = {**_TAKEN, **config}
    flags = tuple(told[key] for key in _PLACED)
    placement = _PLACEMENTS.get(flags) if all(isinstance(flag, bool) for flag in flags) else None
    if placement is None:
        raise UnsupportedError(
            "the placement " + ", ".join(f"{key}={told[key]!r}" for key in _PLACED) + " is none of seq_bn, "
            "double_seq_bn and par_bn, the ones contpeft has"
        )
    method, after = placement
    options = {
        "reduction_factor": _number(told, "reduction_factor", "one number for all layers"),
        "non_linearity": activation_here(told["non_linearity"]),
        "scaling": told["scaling"] if told["scaling"] == "learned" else _number(told, "scaling", "a number"),
        "init_weights": "lora" if told.get("init_weights") == "mam_adapter" else "bert",
        **({} if after is None else {"after_attention": after}),
    }
    places = ("attention.output", "output") if after else ("output",)
    return Meaning(method, options, places, told["scaling"] == "learned", _leave_out(told))


def _lora_meaning(config: Mapping[str, Any]) -> Meaning:
    _check_keys(config, (*_LORA_FIXED, *_LORA_UNUSED, *_LORA_TAKEN), ("r", "alpha"))
    _check_fixed(config, _LORA_FIXED)
    told = {**_LORA_TAKEN, **config}
    matrices = told["attn_matrices"]
    if not isinstance(matrices, list) or not set(map(str, matrices)) <= set(_MATRICES):
        raise UnsupportedError(f"attn_matrices={matrices!r} is no list of q, k and v")
    asked = [_MATRICES[each] for each in _MATRICES if told["selfattn_lora"] and each in matrices]
    asked += [place for place, key in zip(LORA_PLACES[3:], ("intermediate_lora", "output_lora"), strict=True)
              if told[key]]  # fmt: skip
    rank = told["r"]
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise SpecError(f"r={rank!r} is no rank")
    options = {
        "r": rank,
        "lora_alpha": _number(told, "alpha", "a number"),
        "lora_dropout": _number(told, "dropout", "a number"),
    }
    return Meaning("lora", options, tuple(asked), False, _leave_out(told))


def _check_keys(config: Mapping[str, Any], known: Collection[str], needed: Collection[str]) -> None:
    unknown = sorted(set(config) - set(known))
    if unknown:
        raise UnsupportedError(
            f"key {unknown[0]!r} of the configuration is not known, so what it does is not either"
        )
    missing = sorted(set(needed) - set(config))
    if missing:
        raise SpecError(f"the configuration has no {missing[0]!r}")


def _check_fixed(config: Mapping[str, Any], fixed: Mapping[str, tuple[Any, str]]) -> None:
    for key, (value, reason) in fixed.items():
        given = config.get(key, value)
        if given != value or isinstance(given, bool) != isinstance(value, bool):
            raise UnsupportedError(
                f"{key}={given!r} is not taken in: {reason} is not what contpeft has; it takes {value!r}"
            )


def _number(told: Mapping[str, Any], key: str, wanted: str) -> Any:
    value = told[key]
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise UnsupportedError(f"{key}={value!r} is not taken in; contpeft has {wanted}")
    return value


def _leave_out(told: Mapping[str, Any]) -> frozenset[int]:
    layers = told["leave_out"] or []
    if not isinstance(layers, list) or not all(type(each) is int and each >= 0 for each in layers):
        raise SpecError(f"leave_out={layers!r} is no list of layers")
    return frozenset(layers)
