"""Names for specs that papers have made one of, and unions of several."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from contpeft.errors import SpecError, suggest
from contpeft.spec import AdapterSpec
from contpeft.spec.methods import UNION

__all__ = ["PRESETS", "UNION", "expanded", "parts_of"]

# Each part with its own options, and the names of those that are passed on to it.
_Part = tuple[AdapterSpec, tuple[str, ...]]
_PREFIX_OPTIONS: Final = ("num_virtual_tokens", "init_weights", "prefix_projection", "encoder_hidden_size")
_NETWORK_OPTIONS: Final = ("reduction_factor", "activation", "scaling")
_UNIONS: Final[Mapping[str, tuple[bool, tuple[_Part, ...]]]] = {
    # He et al. 2022, section 4.6: a wide network beside the FFN, scaled by 4, and a short prefix.
    "mam": (
        False,
        (
            (AdapterSpec("parallel", reduction_factor=2), _NETWORK_OPTIONS),
            (AdapterSpec("prefix_tuning", num_virtual_tokens=30), _PREFIX_OPTIONS),
        ),
    ),
    # Mao et al. 2022, section 3 and appendix.
    "unipelt": (
        True,
        (
            (AdapterSpec("lora", r=8), ("r", "alpha", "targets")),
            (AdapterSpec("pfeiffer", reduction_factor=16), _NETWORK_OPTIONS),
            (AdapterSpec("prefix_tuning", num_virtual_tokens=10), _PREFIX_OPTIONS),
        ),
    ),
}
PRESETS: Final = ("p_tuning_v2", *_UNIONS)


def expanded(spec: AdapterSpec) -> AdapterSpec:
    """Returns the spec that a preset stands for; others as they are.

    Raises:
        SpecError: if a preset has no such option.
    """
    if spec.method == "p_tuning_v2":  # Liu et al. 2022, section 3.2: no network makes the prefix
        _refuse_unknown(spec, ("num_virtual_tokens", "init_weights"))
        return AdapterSpec("prefix_tuning", **spec.options)
    if spec.method not in _UNIONS:
        return spec
    gated, parts = _UNIONS[spec.method]
    _refuse_unknown(spec, [name for _, names in parts for name in names])
    chosen = [
        AdapterSpec(part.method, **{**part.options, **_only(spec.options, names)}) for part, names in parts
    ]
    return AdapterSpec.union(*chosen, gated=gated)


def parts_of(spec: AdapterSpec) -> list[AdapterSpec]:
    """Returns the parts of a union, presets among them expanded.

    Raises:
        SpecError: if there are fewer than two, one is a union itself, or an option is unknown.
    """
    _refuse_unknown(spec, ("parts", "gated"))
    told = spec.options.get("parts")
    if not isinstance(told, list) or not all(isinstance(each, Mapping) for each in told) or len(told) < 2:
        raise SpecError("a union is of two parts or more; give AdapterSpec.union(spec, spec, ...)")
    if not isinstance(spec.options.get("gated", False), bool):
        raise SpecError(f"gated is {spec.options['gated']!r}; say true or false")
    parts = [expanded(AdapterSpec.from_json(each)) for each in told]
    inner = next((part.method for part in parts if part.method == UNION), None)
    if inner is not None:
        raise SpecError("a part of a union is a union itself; give its parts instead")
    return parts


def _only(options: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name in names}


def _refuse_unknown(spec: AdapterSpec, known: Collection[str]) -> None:
    unknown = next((name for name in spec.options if name not in known), None)
    if unknown is not None:
        raise SpecError(f"method {spec.method!r} has no option {unknown!r}{suggest(unknown, known)}")
