"""Adapter methods: from a spec to PEFT's configuration and back to plain JSON.

The registry is PEFT's own mapping of method names, so every tuner it knows is known here. Short
option names (``alpha``, ``dropout``, ``targets``) stand for what a method calls them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from enum import Enum
from typing import Any

from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from torch import nn
from transformers.pytorch_utils import Conv1D

from contpeft.errors import SpecError, UnsupportedError, suggest
from contpeft.spec import AdapterSpec

__all__ = ["check_spec", "config_from_json", "config_to_json", "make_config", "method_names"]

_SHORT_NAMES = {
    "alpha": ("lora_alpha", "alpha"),
    "dropout": ("lora_dropout", "dropout", "module_dropout"),
    "targets": ("target_modules",),
}

# The query and value projections as the transformers families spell them; the first group that is
# wholly present in the model is taken (Hu et al. 2021, section 7.1: query and value are enough).
_QUERY_VALUE = (
    ("query", "value"),
    ("q_proj", "v_proj"),
    ("q_lin", "v_lin"),
    ("query_proj", "value_proj"),
    ("q", "v"),
    ("query_key_value",),
    ("c_attn",),
    ("qkv",),
)

_VOLATILE = ("base_model_name_or_path", "inference_mode", "peft_version", "revision", "runtime_config")


def method_names() -> list[str]:
    """Returns the names of the methods that can be attached to a module tree, sorted."""
    return sorted(str(kind.value).lower() for kind in PEFT_TYPE_TO_TUNER_MAPPING)


def check_spec(spec: AdapterSpec) -> None:
    """Checks the method's name and the names of its options; no model is needed.

    Raises:
        SpecError: if the method or an option is unknown, naming the nearest known one.
        UnsupportedError: if the method does not replace modules (prompt methods).
    """
    _option_names(spec)


def make_config(spec: AdapterSpec, model: nn.Module, head: nn.Module | None = None) -> PeftConfig:
    """Returns PEFT's configuration for ``spec`` on ``model``, its target modules found in the model.

    Args:
        spec: the method and its options. ``targets`` may be a list of module name endings,
            ``"all-linear"``, or absent: then the attention's query and value projections.
        model: the transformers model the adapter will be attached to.
        head: the classifier head inside the model, which is never a target.

    Raises:
        SpecError: if the method, an option or a target is unknown, or an option's value is refused.
    """
    options = {full: spec.options[short] for short, full in _option_names(spec).items()}
    config_type = _config_type(spec.method)
    known = {f.name for f in dataclasses.fields(config_type)}
    if "target_modules" in known:
        options["target_modules"] = _targets(model, options.get("target_modules"), head)
    if spec.method == "lora":
        options.setdefault("lora_alpha", 2 * options.get("r", 8))
        if any(isinstance(module, Conv1D) for module in model.modules()):
            options.setdefault("fan_in_fan_out", True)
    try:
        return config_type(**options)
    except (TypeError, ValueError) as error:
        raise SpecError(f"{spec} is refused by the method: {error}") from error


def config_to_json(config: PeftConfig) -> dict[str, Any]:
    """Returns a PEFT configuration as plain JSON, sets sorted, without what changes between uses."""
    return {key: _jsonable(value) for key, value in config.to_dict().items() if key not in _VOLATILE}


def config_from_json(value: Mapping[str, Any]) -> PeftConfig:
    """Returns the PEFT configuration :func:`config_to_json` wrote.

    Raises:
        SpecError: if a key is not one of the method's, so that nothing is dropped silently.
    """
    config_type = _config_type(str(value["peft_type"]).lower())
    known = {f.name for f in dataclasses.fields(config_type)}
    options = {key: item for key, item in value.items() if key != "peft_type"}
    unknown = sorted(set(options) - known)
    if unknown:
        raise SpecError(
            f"stored configuration has keys this release of PEFT does not know: {', '.join(unknown)}; "
            "use the release named in the version's environment"
        )
    return config_type(**options)


def _config_type(method: str) -> type[PeftConfig]:
    for kind, config_type in PEFT_TYPE_TO_CONFIG_MAPPING.items():
        if str(kind.value if isinstance(kind, Enum) else kind).lower() == method:
            if kind not in PEFT_TYPE_TO_TUNER_MAPPING:
                raise UnsupportedError(
                    f"method {method!r} changes the model's inputs instead of its modules, which contpeft "
                    f"does not attach; use one of: {', '.join(method_names())}"
                )
            return config_type
    raise SpecError(f"no adapter method {method!r}{suggest(method, method_names(), limit=40)}")


def _option_names(spec: AdapterSpec) -> dict[str, str]:
    """Maps each option of ``spec`` to the name the method gives it."""
    known = [f.name for f in dataclasses.fields(_config_type(spec.method)) if f.name != "peft_type"]
    names = {}
    for option in spec.options:
        candidates = (option, *_SHORT_NAMES.get(option, ()))
        full = next((name for name in candidates if name in known), None)
        if full is None:
            raise SpecError(
                f"method {spec.method!r} has no option {option!r}{suggest(option, [*known, *_SHORT_NAMES])}"
            )
        names[option] = full
    return names


def _targets(model: nn.Module, asked: Any, head: nn.Module | None) -> list[str] | str:
    in_head = {id(module) for module in head.modules()} if head is not None else set()
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and id(module) not in in_head
    ]
    if asked == "all-linear":
        return linear
    if isinstance(asked, str):
        return asked  # a regular expression, matched by PEFT
    endings = {name.rpartition(".")[2] for name in linear}
    if asked is not None:
        _check_targets(model, list(asked))
        return list(asked)
    found = next((group for group in _QUERY_VALUE if endings.issuperset(group)), None)
    if found is None:
        raise SpecError(
            f"no query and value projections found in {type(model).__name__}; name them with targets=[...] "
            f"or targets='all-linear'; its linear layers end in: {', '.join(sorted(endings))}"
        )
    return list(found)


def _check_targets(model: nn.Module, asked: list[str]) -> None:
    names = [name for name, _ in model.named_modules() if name]
    for target in asked:
        if not any(name == target or name.endswith("." + target) for name in names):
            endings = {name.rpartition(".")[2] for name in names}
            raise SpecError(f"no module {target!r} in {type(model).__name__}{suggest(target, endings)}")


def _jsonable(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _jsonable(dataclasses.asdict(value))
    return value
