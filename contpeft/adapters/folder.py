"""What PEFT keeps in a folder, taken over as a state: every key known, every tensor accounted for.

PEFT itself loads such a folder loosely: a key it does not know is dropped, a factor that is missing
stays random, and a tensor named like a weight of the base replaces that weight. Each of these is
refused here. No file is read and no model is needed; :meth:`AdaptedModel.check_fits` says whether
the adapter fits one.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING
from peft.tuners.tuners_utils import check_target_module_exists
from torch import Tensor

from contpeft.adapters.find import HEADS_IN_MODEL
from contpeft.adapters.methods import VOLATILE, config_from_json, config_to_json
from contpeft.adapters.naming import method_of
from contpeft.adapters.presets import UNION
from contpeft.adapters.prompts import PROMPT_METHODS, is_prompt
from contpeft.adapters.prompts.folder import checked_vectors, head_names
from contpeft.adapters.union import part_states
from contpeft.errors import SpecError, UnsupportedError
from contpeft.spec import AdapterState, HeadSpec
from contpeft.spec.lora import ROOT, lora_alpha, lora_rank

__all__ = ["changed_modules", "state_from_peft"]

_TOKENS = "trainable_tokens_"
_WRAPPERS = (".base_layer", ".token_adapter")
_REFUSALS = (AttributeError, KeyError, TypeError, ValueError, re.error)
_PAIRS = (("lora_A.weight", "lora_B.weight"), ("lora_embedding_A", "lora_embedding_B"))
# With these the first dimension of a factor is not the rank alone.
_RANK_ASIDE = ("target_parameters", "use_bdlora")
# With these there are factors beside the pair.
_VARIANTS = ("arrow_config", "kasa_config", "monteclora_config", "use_bdlora", "velora_config")

_Layers = Mapping[str, Mapping[str, Tensor]]


class _Factor(NamedTuple):
    """The module a tensor belongs to, empty for the whole model, and its name there."""

    module: str
    part: str


def state_from_peft(told: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> AdapterState:
    """Returns what PEFT stored as a state.

    Args:
        told: the content of ``adapter_config.json``.
        tensors: those of ``adapter_model.safetensors``.

    Raises:
        SpecError: if the configuration is malformed or has an unknown key; if a tensor is neither a
            factor of the method nor of a declared head; if a factor is missing or has another rank.
        UnsupportedError: if contpeft does not attach the method or one of its options.
    """
    try:
        return _state(told, tensors)
    except _REFUSALS as error:  # of PEFT, about values that have no meaning
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise SpecError(f"adapter_config.json cannot be meant: {reason}") from error


def changed_modules(state: AdapterState) -> set[str]:
    """Returns the dotted paths of the modules an adapter has factors for; a prompt has none."""
    if state.kind == UNION:
        return {module for part in part_states(state)[0] for module in changed_modules(part)}
    if state.kind in PROMPT_METHODS:
        return set()
    prefixes = _prefixes(config_from_json(state.config))
    return {module for module in _layers(state.adapter_tensors(), prefixes) if module}


def _state(told: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> AdapterState:
    config = _config(told)
    if is_prompt(config):
        return _prompt_state(config, told, tensors)
    prefixes = _prefixes(config)
    factors = {name: tensor for name, tensor in tensors.items() if _factor(name, prefixes)}
    head, head_tensors = _head(set(tensors) - set(factors), told.get("modules_to_save"), tensors)
    layers = _layers(factors, prefixes)
    if not factors:
        raise SpecError(f"there is no factor of {method_of(config)} among the {len(tensors)} tensors")
    _check_targets(config, [module for module in layers if module])
    _check_alike(config, layers)
    if method_of(config) == "lora":
        for module, parts in layers.items():
            _check_lora(config, module, parts)
    return AdapterState(method_of(config), config_to_json(config), factors | head_tensors, head)


def _prompt_state(config: PeftConfig, told: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> AdapterState:
    own = checked_vectors(config, tensors)
    config.task_type = "CAUSAL_LM" if told.get("task_type") == "CAUSAL_LM" else "FEATURE_EXTRACTION"
    others = head_names({name: each for name, each in tensors.items() if name not in own})
    head, head_tensors = _head(others, told.get("modules_to_save"), others)
    return AdapterState(method_of(config), config_to_json(config), own | head_tensors, head)


def _config(told: Mapping[str, Any]) -> PeftConfig:
    """Returns the method's configuration, what does not last and the head left out."""
    method = told.get("peft_type")
    if not isinstance(method, str):
        raise SpecError(f"adapter_config.json has peft_type {method!r}, so its method is not known")
    options = {key: value for key, value in told.items() if key not in VOLATILE}
    for key in ("modules_to_save", "task_type"):
        if key in options:
            options[key] = None
    return config_from_json(options)


def _prefixes(config: PeftConfig) -> tuple[str, ...]:
    own = (PEFT_TYPE_TO_PREFIX_MAPPING[config.peft_type], f"{method_of(config)}_")  # type: ignore[index]
    return (*own, _TOKENS) if getattr(config, "trainable_token_indices", None) else own


def _factor(name: str, prefixes: tuple[str, ...]) -> _Factor | None:
    parts = name.split(".")
    place = next((i for i, part in enumerate(parts) if part.startswith(prefixes)), 0)
    root = parts[:2] if place > 1 else parts[:1]
    if place == 0 or f"{'.'.join(root)}." not in (ROOT, "base_model."):
        return None
    module = ".".join(parts[len(root) : place])
    while module.endswith(_WRAPPERS):
        module = module.rpartition(".")[0]
    return _Factor(module, ".".join(parts[place:]))


def _layers(factors: Mapping[str, Tensor], prefixes: tuple[str, ...]) -> _Layers:
    """Returns the factors by module; those of single tokens are no layer's."""
    layers: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in factors.items():
        found = _factor(name, prefixes)
        if found and (not found.part.startswith(_TOKENS) or prefixes[0] == _TOKENS):
            layers[found.module][found.part] = tensor
    return layers


def _head(
    names: Iterable[str], declared: Any, tensors: Mapping[str, Tensor]
) -> tuple[HeadSpec | None, dict[str, Tensor]]:
    """Returns the head these tensors are, under the names a version keeps them by."""
    found: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name in sorted(names):
        match = next(filter(None, (_inside(name, each) for each in declared or ())), None)
        if match is None:
            raise SpecError(
                f"tensor {name!r} is neither a factor of the adapter nor of a head it declares; "
                "loaded, it could replace a weight of the base"
            )
        found[match["module"]][AdapterState.HEAD_PREFIX + match["rest"]] = tensors[name]
    if len(found) > 1:
        raise UnsupportedError(f"modules_to_save holds {', '.join(found)}; a version has one head")
    for module, inside in found.items():
        if module.rpartition(".")[2] not in HEADS_IN_MODEL:
            raise UnsupportedError(
                f"modules_to_save holds {module!r}, which is no classifier head; a version holds an adapter "
                "and its head, nothing else of the base"
            )
        return HeadSpec("own", (), {"module": module}), inside
    return None, {}


def _inside(name: str, module: Any) -> re.Match[str] | None:
    return re.fullmatch(rf"{re.escape(ROOT)}(?P<module>(.+\.)?{re.escape(str(module))})\.(?P<rest>.+)", name)


def _check_targets(config: PeftConfig, modules: Collection[str]) -> None:
    targets = getattr(config, "target_modules", None)
    if targets is None or not modules or getattr(config, "target_parameters", None):
        return
    foreign = next((each for each in modules if not check_target_module_exists(config, each)), None)
    if foreign is not None:
        raise SpecError(f"there are factors for {foreign!r}, which target_modules does not name")
    for target in () if isinstance(targets, str) else sorted(targets):
        if not any(f".{module}".endswith(f".{target}") for module in modules):
            raise SpecError(f"target_modules names {target!r}, but there is no factor for it")


def _check_alike(config: PeftConfig, layers: _Layers) -> None:
    """Checks that modules which differ in their layer's number alone have factors of the same names."""
    if getattr(config, "rank_pattern", None) and method_of(config) != "lora":
        return  # for some methods the rank decides which factors there are
    alike: dict[str, set[str]] = defaultdict(set)
    for module, parts in layers.items():
        alike[re.sub(r"\d+", "#", module)].update(parts)
    for module, parts in layers.items():
        _check_all_there(module, parts, alike[re.sub(r"\d+", "#", module)])


def _check_all_there(module: str, parts: Collection[str], needed: Iterable[str]) -> None:
    missing = sorted(set(needed) - set(parts))
    if missing:
        raise SpecError(f"factor {missing[0]!r} of {module!r} is missing")


def _check_lora(config: Any, module: str, parts: Mapping[str, Tensor]) -> None:
    pair = next((pair for pair in _PAIRS if set(pair) & set(parts)), _PAIRS[0])
    extra = {"lora_magnitude_vector": config.use_dora, "lora_B.bias": config.lora_bias}
    needed = {*pair, *(part for part, asked in extra.items() if asked)}
    _check_all_there(module, parts, needed)
    foreign = sorted(set(parts) - needed)
    if foreign and not _any_set(config, _VARIANTS):
        raise SpecError(f"there is {foreign[0]!r} of {module!r}, which adapter_config.json does not ask for")
    _check_rank(config, module, [tuple(parts[part].shape) for part in pair])


def _check_rank(config: PeftConfig, module: str, shapes: Sequence[tuple[int, ...]]) -> None:
    """Checks the shapes ``(r, in)`` and ``(out, r)`` of a pair, and its scaling."""
    told = vars(config)
    rank, alpha = lora_rank(told, module), lora_alpha(told, module)
    if not isinstance(alpha, int | float):
        raise SpecError(f"adapter_config.json gives {module!r} alpha {alpha!r}, which is no number")
    if any(len(shape) < 2 for shape in shapes):
        raise SpecError(f"the factors of {module!r} have shapes {shapes}; they are no matrices")
    ranks = {shapes[0][0], shapes[1][1]}
    if ranks != {rank} and not _any_set(config, _RANK_ASIDE):
        raise SpecError(
            f"the factors of {module!r} have shapes {shapes}, adapter_config.json gives them rank {rank}"
        )


def _any_set(config: PeftConfig, options: Iterable[str]) -> bool:
    return any(getattr(config, option, None) for option in options)
