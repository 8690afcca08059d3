"""Fusions of AdapterHub's as states, and the other way round.

The value matrix is ``W`` there and ``W - I`` here, which takes more digits where the diagonal is not near 1:
it is kept in the narrowest type that gives every bit of ``W`` back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, Final

import torch
from torch import Tensor

from contpeft.adapters.adapterhub.names import (
    FAMILIES,
    FUSED_PARTS,
    check_name,
    ours,
    prefix_of,
    sort_ours,
    sort_theirs,
    theirs,
)
from contpeft.adapters.adapterhub.places import module_prefix
from contpeft.adapters.adapterhub.told import Told, identified
from contpeft.adapters.adapterhub.writing import Target
from contpeft.adapters.fusion import FusionOptions
from contpeft.errors import SpecError, UnsupportedError
from contpeft.spec import AdapterState

__all__ = ["fusion_from_hub", "fusion_to_hub", "offset_of", "weight_of"]

_KIND: Final = "adapter_fusion_layer"
_VALUE: Final = "value.weight"
_SWITCHES: Final = (
    "key",
    "query",
    "query_before_ln",
    "regularization",
    "residual_before",
    "temperature",
    "value",
    "value_before_softmax",
    "value_initialized",
)
# Options of ours that AdapterHub has under the same name.
_SHARED: Final = (*_SWITCHES, "dropout_prob")
_REFUSED: Final[Mapping[str, str]] = {
    "residual_before": "bottleneck adapters are fused without",
    "temperature": "how far the softmax has cooled is not in the folder, so what it answers is not known",
}


def fusion_from_hub(
    told: Told, tensors: Mapping[str, Tensor], members: Sequence[AdapterState]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Returns the options of a fusion of AdapterHub's, and its tensors as a version keeps them.

    Args:
        told: its configuration.
        tensors: those of its file.
        members: the adapters that it is over, in its order.

    Raises:
        SpecError: naming a tensor that is missing, unexpected or of another shape; or the members are
            others.
        UnsupportedError: naming an option that contpeft does not have.
    """
    options = _options(told.config)
    method = _method(members)
    prefix = module_prefix(members[0].adapter_tensors())
    given = prefix_of(tensors, told.family)
    found = sort_theirs(tensors, given, _KIND, told.name)
    wanted = {site: part for site in _sites(members, method) for part in [_parts(options)]}
    for layer, place in sorted(
        {*wanted, *((layer, place) for layer, parts in found.items() for place, _ in parts)}
    ):
        there = {part for (at, part) in found.get(layer, {}) if at == place}
        wrong = sorted(there ^ set(wanted.get((layer, place), ())))
        if wrong:
            name = theirs(given, layer, place, _KIND, told.name, wrong[0])
            state = "unexpected: neither its configuration nor its members ask for it"
            raise SpecError(f"tensor {name!r} is {state if wrong[0] in there else 'missing'}")
    named = {}
    for layer, parts in found.items():
        for (place, part), tensor in parts.items():
            name = theirs(given, layer, place, _KIND, told.name, part)
            _check_shape(name, tensor, told.hidden_size, part)
            kept = offset_of(tensor, name) if part == _VALUE else tensor
            named[ours(method, prefix, layer, place, part, fused=True)] = kept
    return asdict(options), named


def fusion_to_hub(
    state: AdapterState,
    members: Mapping[str, AdapterState],
    target: Target,
    kept: Mapping[str, Any] | None,
    kept_prefix: str | None,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Returns the content of the configuration file and the tensors of a stored fusion.

    Args:
        state: the fusion.
        members: the adapters that it is over, by what they are called there.
        target: the base, its kind known.
        kept: the configuration file it once came from, if it did.
        kept_prefix: what names of tensors began with there; the family's prefix when None.

    Raises:
        UnsupportedError: naming what AdapterHub has no place for.
    """
    method = _method(list(members.values()))
    name = ",".join(check_name(each, "a member of the fusion") for each in members)
    options = state.config["options"]
    config = _config(options)
    found = sort_ours(state.adapter_tensors(), method, module_prefix(state.adapter_tensors()), fused=True)
    if kept is not None and _options(kept["config"]) == FusionOptions(**options):
        config = dict(kept["config"])
    before = FAMILIES[str(target.model_type)].prefix if kept_prefix is None else kept_prefix
    flat = {(layer, *key): tensor for layer, parts in found.items() for key, tensor in parts.items()}
    plain = {tensor.dtype for (_, _, part), tensor in flat.items() if part != _VALUE}
    dtype = plain.pop() if plain else torch.float32
    named = {
        theirs(before, layer, place, _KIND, name, part): weight_of(tensor, dtype)
        if part == _VALUE
        else tensor
        for (layer, place, part), tensor in flat.items()
    }
    width = next(iter(flat.values())).shape[0]
    told = identified(name, config, str(target.model_type), width, target.model_name, kept)
    return {**told, "adapter_names": list(members)}, named


def offset_of(weight: Tensor, name: str) -> Tensor:
    """Returns ``W - I`` in the narrowest type, that of ``W`` or above, that gives ``W`` back.

    Args:
        weight: ``(H, H)``.
        name: of the tensor, for messages.

    Raises:
        UnsupportedError: if no type does: an entry of the diagonal is below about 1e-9.
    """
    types = [
        weight.dtype,
        *(each for each in (torch.float32, torch.float64) if each.itemsize > weight.itemsize),
    ]
    for dtype in types:
        offset = weight.to(dtype, copy=True).contiguous()
        offset.diagonal().sub_(1)
        if _same_bits(weight_of(offset, weight.dtype), weight):
            return offset
    raise UnsupportedError(
        f"the diagonal of {name!r} has an entry so near 0 that it cannot be kept to the last bit as what the "
        "matrix is apart from the identity"
    )


def weight_of(offset: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns ``W`` of ``W - I``, ``(H, H)``; entries off the diagonal keep every bit."""
    weight = offset.clone()
    weight.diagonal().add_(1)
    return weight.to(dtype)


def _same_bits(left: Tensor, right: Tensor) -> bool:
    return torch.equal(left.contiguous().view(torch.uint8), right.contiguous().view(torch.uint8))


def _options(config: Mapping[str, Any]) -> FusionOptions:
    unknown = sorted(set(config) - set(_SHARED))
    missing = sorted(set(_SHARED) - set(config))
    if unknown or missing:
        raise SpecError(
            f"the fusion's configuration has no {missing[0]!r}" if missing
            else f"key {unknown[0]!r} of the fusion's configuration is not known"
        )  # fmt: skip
    for key in _SWITCHES:
        if not isinstance(config[key], bool):
            raise SpecError(f"{key}={config[key]!r} is neither true nor false")
    for key, reason in _REFUSED.items():
        if config[key]:
            raise UnsupportedError(f"{key}=True is not taken in: {reason}")
    if not (config["key"] or config["query"] or config["value"]):
        raise UnsupportedError(
            "a fusion without key, query and value has nothing to keep; it is not taken in"
        )
    known = {field.name for field in fields(FusionOptions)}
    if config["query_before_ln"] and "query_before_ln" not in known:
        raise UnsupportedError("query_before_ln=True is not taken in: here what an adapter reads scores")
    share = config["dropout_prob"]
    if share is not None and (isinstance(share, bool) or not isinstance(share, int | float)):
        raise SpecError(f"dropout_prob={share!r} is no share")
    # None is the model's own share, and acts in training only.
    return FusionOptions(**{key: config[key] for key in _SWITCHES if key in known}, dropout_prob=share or 0.0)


def _config(options: Mapping[str, Any]) -> dict[str, Any]:
    usual = asdict(FusionOptions())
    for key, value in options.items():
        if key not in _SHARED and value != usual.get(key):
            raise UnsupportedError(
                f"option {key}={value!r} of the fusion is not in AdapterHub; it cannot be exported"
            )
    for key, reason in _REFUSED.items():
        if options.get(key):
            raise UnsupportedError(f"option {key} of the fusion cannot be exported: {reason}")
    return {"query_before_ln": False, **{key: options[key] for key in _SHARED if key in options}}


def _method(members: Sequence[AdapterState]) -> str:
    """Returns the method of what is fused, if AdapterHub computes such a fusion as its paper does."""
    kinds = {state.kind for state in members}
    if kinds == {"parallel"}:
        raise UnsupportedError(
            "AdapterHub adds the input twice where parallel adapters (par_bn) are fused; a fusion over them "
            "would answer otherwise here"
        )
    if len(kinds) != 1 or not kinds <= {"pfeiffer", "houlsby"}:
        raise UnsupportedError(
            f"AdapterHub fuses bottleneck adapters of one method; these are {', '.join(sorted(kinds))}"
        )
    return kinds.pop()


def _sites(members: Sequence[AdapterState], method: str) -> set[tuple[int, str]]:
    found = []
    for state in members:
        tensors = state.adapter_tensors()
        layers = sort_ours(tensors, method, module_prefix(tensors))
        found.append({(layer, place) for layer, parts in layers.items() for place, _ in parts})
    if any(sites != found[0] for sites in found):
        raise SpecError(
            "the members change other places of the model; only those of the same places are fused"
        )
    return found[0]


def _parts(options: FusionOptions) -> tuple[str, ...]:
    return tuple(part for part in FUSED_PARTS if getattr(options, part.partition(".")[0]))


def _check_shape(name: str, tensor: Tensor, hidden: int, part: str) -> None:
    wanted = (hidden,) if part.endswith("bias") else (hidden, hidden)
    if tuple(tensor.shape) != wanted or not tensor.is_floating_point():
        raise SpecError(
            f"tensor {name!r} is {tensor.dtype} of shape {tuple(tensor.shape)}; it has to be {wanted}"
        )
