"""Adapter methods: from a spec to PEFT's configuration and back to plain JSON.

The registry is PEFT's own mapping of method names, so every tuner it knows is known here, and those
that :mod:`contpeft.adapters.tuners` adds to it; variants of LoRA are in :mod:`contpeft.adapters.variants`.
Short option names (``alpha``, ``dropout``, ``targets``) stand for what a method calls them.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from enum import Enum
from typing import Any, cast

import peft
from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner
from torch import nn

from contpeft.adapters.budget import AUTO, check_budget, spec_within
from contpeft.adapters.naming import method_name, method_of
from contpeft.adapters.presets import PRESETS, UNION, expanded, parts_of
from contpeft.adapters.prompts import PROMPT_METHODS, completed, is_prompt
from contpeft.adapters.targets import default_targets, has_conv1d, resolve_targets
from contpeft.adapters.tuners import OWN_METHODS
from contpeft.adapters.tuners.configs import BottleneckConfig
from contpeft.adapters.tuners.sites import site_pattern
from contpeft.adapters.variants import VARIANTS, base_method, double_rank, own_options, with_preset
from contpeft.errors import SpecError, UnsupportedError, suggest
from contpeft.spec import AdapterSpec

__all__ = [
    "VOLATILE",
    "check_spec",
    "config_from_json",
    "config_to_json",
    "make_config",
    "method_names",
]

_SHORT_NAMES = {
    "activation": ("non_linearity",),
    "alpha": ("lora_alpha", "alpha"),
    "dropout": ("lora_dropout", "dropout", "module_dropout"),
    "targets": ("target_modules",),
}

# Options that would change the model outside the adapter's own layers: the values that do not, and
# what all others do.
_OUTSIDE: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "alora_invocation_tokens": ((None,), "acts inside PEFT's own forward only"),
    "bias": (("none",), "trains the base's own biases"),
    "init_lora_weights": (
        (True, False, "gaussian", "orthogonal"),
        "rewrites the base's weights or reads data",
    ),
    "layer_replication": ((None,), "makes the base deeper"),
    "modules_to_save": ((None, []), "trains other modules; the head is stored with every version anyway"),
}
_OWN_FORWARD = frozenset({"poly", "shadow", "xlora"})

# What a configuration on disk says about its surroundings and its use, not about the adapter.
VOLATILE = ("base_model_name_or_path", "inference_mode", "peft_version", "revision", "runtime_config")


def method_names() -> list[str]:
    """Returns the names of the methods that can be attached to a model, sorted."""
    own = (name for name, kind in _registry().items() if _attachable(name, kind))
    return sorted({*VARIANTS, *PRESETS, *own})


def check_spec(spec: AdapterSpec) -> None:
    """Checks the method's name and its options; no model is needed.

    Raises:
        SpecError: if the method or an option is unknown, naming the nearest known one.
        UnsupportedError: if the method or an option changes more than the modules it is applied to.
    """
    spec = expanded(spec)
    if spec.method == AUTO:
        check_budget(spec)
    elif spec.method == UNION:
        for part in parts_of(spec):
            check_spec(part)
    else:
        _full_options(spec)


def make_config(
    spec: AdapterSpec | PeftConfig, model: nn.Module, head: nn.Module | None = None
) -> PeftConfig:
    """Returns PEFT's configuration for ``spec`` on ``model``, its target modules found in the model.

    Args:
        spec: the method and its options, or PEFT's own configuration, which is left as it is.
            ``targets`` may be a list of module name endings, a regular expression over whole names,
            ``"all-linear"``, or absent: then the attention's query and value projections.
        model: the transformers model the adapter will be attached to.
        head: the classifier head inside the model, which is never a target.

    Raises:
        SpecError: if the method, an option or a target is unknown, or an option's value is refused.
        UnsupportedError: if the method or an option changes more than the modules it is applied to.
    """
    spec = expanded(spec) if isinstance(spec, AdapterSpec) else spec
    if isinstance(spec, AdapterSpec) and spec.method == AUTO:
        spec = spec_within(spec, model, head)
    config: Any = _from_spec(spec, model, head) if isinstance(spec, AdapterSpec) else copy.deepcopy(spec)
    _config_type(method_of(config))
    _check_options(vars(config))
    config.task_type = None  # for some tasks PEFT would wrap the head
    config.inference_mode = False
    if is_prompt(config):
        return completed(config, model)
    if isinstance(config, BottleneckConfig) and config.target_modules is None:
        config.target_modules = site_pattern(method_of(config), config.placement, model)
    if getattr(config, "target_modules", None) is not None:
        resolved = resolve_targets(model, config.target_modules, head)
        config.target_modules = resolved if isinstance(resolved, str) else set(resolved)
    if hasattr(config, "fan_in_fan_out"):
        config.fan_in_fan_out = has_conv1d(model)
    return cast(PeftConfig, config)


def config_to_json(config: PeftConfig) -> dict[str, Any]:
    """Returns a PEFT configuration as plain JSON, sets sorted, without what changes between uses."""
    return {key: _jsonable(value) for key, value in config.to_dict().items() if key not in VOLATILE}


def config_from_json(value: Mapping[str, Any]) -> PeftConfig:
    """Returns the PEFT configuration :func:`config_to_json` wrote.

    Raises:
        SpecError: if a key is not one of the method's, so that nothing is dropped silently.
        UnsupportedError: if an option changes more than the modules the method is applied to.
    """
    config_type = _config_type(str(value["peft_type"]).lower())
    known = {f.name for f in dataclasses.fields(config_type)}
    options = {key: item for key, item in value.items() if key != "peft_type"}
    unknown = sorted(set(options) - known)
    if unknown:
        raise SpecError(
            f"the configuration has keys this release of PEFT does not know: {', '.join(unknown)}; "
            "use the release that wrote it (a stored version's environment names it)"
        )
    _check_options(options)
    return config_type(**options)


def _registry() -> dict[str, Any]:
    return {method_name(kind): kind for kind in PEFT_TYPE_TO_CONFIG_MAPPING}


def _attachable(name: str, kind: Any) -> bool:
    tuner = PEFT_TYPE_TO_TUNER_MAPPING.get(kind)
    layers = tuner is not None and issubclass(tuner, BaseTuner) and name not in _OWN_FORWARD
    return layers or name in PROMPT_METHODS


def _config_type(method: str) -> type[PeftConfig]:
    kind = _registry().get(method)
    if kind is None and method in OWN_METHODS:
        raise UnsupportedError(
            f"method {method!r} needs PEFT 0.21 or newer, this is {peft.__version__}; upgrade it"
        )
    if kind is None:
        raise SpecError(f"no adapter method {method!r}{suggest(method, method_names(), limit=40)}")
    if not _attachable(method, kind):
        raise UnsupportedError(
            f"method {method!r} needs PEFT's own forward, which contpeft does not replace; "
            f"use one of: {', '.join(method_names())}"
        )
    return PEFT_TYPE_TO_CONFIG_MAPPING[kind]


def _full_options(spec: AdapterSpec) -> dict[str, Any]:
    """Returns the options of ``spec``, checked, under the names that PEFT gives them."""
    config_type, own = _config_type(base_method(spec.method)), own_options(spec.method, spec.options)
    known = {f.name: f.name for f in dataclasses.fields(config_type) if f.name != "peft_type"}
    short = {name: full for name, fulls in _SHORT_NAMES.items() for full in reversed(fulls) if full in known}
    names = short | known
    options = {}
    for option, value in spec.options.items():
        if option not in names and option not in own:
            raise SpecError(
                f"method {spec.method!r} has no option {option!r}{suggest(option, [*names, *own])}"
            )
        if option not in own:
            options[names[option]] = value
    options = with_preset(spec.method, options)
    _check_options(options)
    return options


def _check_options(options: Mapping[str, Any]) -> None:
    for option, (allowed, effect) in _OUTSIDE.items():
        if option in options and options[option] not in allowed:
            raise UnsupportedError(
                f"option {option}={options[option]!r} is not supported: it {effect}; "
                f"leave it at {allowed[0]!r}"
            )


def _from_spec(spec: AdapterSpec, model: nn.Module, head: nn.Module | None) -> PeftConfig:
    method = base_method(spec.method)
    config_type, options = _config_type(method), _full_options(spec)
    known = {f.name for f in dataclasses.fields(config_type)}
    placed = issubclass(config_type, BottleneckConfig)  # its options decide where, too
    if options.get("target_modules") is None and "target_modules" in known and not placed:
        options["target_modules"] = default_targets(method, model, head)
    if method == "lora":
        options.setdefault("lora_alpha", 2 * options.get("r", 8))
    if method == "ia3":
        options.setdefault("feedforward_modules", [])  # PEFT's own would not be among the targets
    if method == "adalora":  # whoever knows how long the fit is puts its length here
        options.setdefault("total_step", 1 + options.get("tinit", 0) + options.get("tfinal", 0))
    try:
        config = config_type(**options)
    except (TypeError, ValueError) as error:
        raise SpecError(f"{spec} is refused by the method: {error}") from error
    if spec.method in VARIANTS and VARIANTS[spec.method].doubled:
        double_rank(config)
    return config


def _jsonable(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    return value
