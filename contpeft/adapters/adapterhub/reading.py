"""Adapters of AdapterHub's as states: every tensor accounted for."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from contpeft.adapters.adapterhub.config import Meaning, meaning
from contpeft.adapters.adapterhub.names import Sorted, kind_of, ours, prefix_of, sort_theirs, theirs
from contpeft.adapters.adapterhub.places import config_here
from contpeft.adapters.adapterhub.told import Told
from contpeft.errors import SpecError
from contpeft.spec import AdapterState

__all__ = ["adapter_from_hub"]


def adapter_from_hub(
    told: Told, tensors: Mapping[str, Tensor], prefix: str, layers: int | None = None
) -> AdapterState:
    """Returns an adapter of AdapterHub's as a state.

    Args:
        told: its configuration.
        tensors: those of its file.
        prefix: what the names of the base's modules begin with, here.
        layers: how many the base has; without, layers that are missing at the end are not.

    Raises:
        SpecError: naming a tensor that is missing, unexpected or of another shape.
        UnsupportedError: naming an option that contpeft does not have.
    """
    meant = meaning(told.config)
    given = prefix_of(tensors, told.family)
    kind = kind_of(meant.method)
    found = sort_theirs(tensors, given, kind, told.name)
    _check_all_there(found, meant, told, given, layers)
    _check_shapes(found, meant, told, given)
    named = {
        ours(meant.method, prefix, layer, place, part): tensor
        for layer, parts in sorted(found.items())
        for (place, part), tensor in parts.items()
    }
    return AdapterState(meant.method, config_here(meant, told.model_type, prefix, sorted(found)), named)


def _parts(meant: Meaning) -> tuple[str, ...]:
    if meant.method == "lora":
        return ("lora_A", "lora_B")
    both = tuple(f"{part}.{end}" for part in ("adapter_down.0", "adapter_up") for end in ("weight", "bias"))
    return (*both, "scaling") if meant.learned else both


def _check_all_there(found: Sorted, meant: Meaning, told: Told, given: str, layers: int | None) -> None:
    count = layers if layers is not None else max(found, default=-1) + 1
    for layer in sorted({*range(count), *found}):
        needed = {(place, part) for place in meant.places for part in _parts(meant)}
        if layer in meant.leave_out or layer >= count:
            needed = set()
        there = set(found.get(layer, {}))
        wrong = sorted(needed ^ there)
        if wrong:
            name = theirs(given, layer, wrong[0][0], kind_of(meant.method), told.name, wrong[0][1])
            state = "missing" if wrong[0] in needed else "unexpected: the configuration does not ask for it"
            raise SpecError(f"tensor {name!r} is {state}")
    if not found:
        raise SpecError(f"there is no tensor of {told.name!r}")


def _check_shapes(found: Sorted, meant: Meaning, told: Told, given: str) -> None:
    inner = _inner(found)
    for layer, parts in found.items():
        for (place, part), tensor in parts.items():
            wanted = _shape(meant, told.hidden_size, place, part, inner)
            if tuple(tensor.shape) != wanted or not tensor.is_floating_point():
                name = theirs(given, layer, place, kind_of(meant.method), told.name, part)
                raise SpecError(
                    f"tensor {name!r} is {tensor.dtype} of shape {tuple(tensor.shape)}; the configuration "
                    f"gives it numbers of shape {wanted}"
                )


def _inner(found: Sorted) -> int:
    """Returns the width inside the FFN, as the first tensor that has it tells."""
    for parts in found.values():
        for (place, part), tensor in parts.items():
            if (place, part) in (
                ("intermediate.dense", "lora_B"),
                ("output.dense", "lora_A"),
            ) and tensor.ndim == 2:
                return int(tensor.shape[0 if part == "lora_B" else 1])
    return 0


def _shape(meant: Meaning, hidden: int, place: str, part: str, inner: int) -> tuple[int, ...]:
    if meant.method == "lora":
        rank = int(meant.options["r"])
        inputs = inner if place == "output.dense" else hidden
        outputs = inner if place == "intermediate.dense" else hidden
        return (rank, inputs) if part == "lora_A" else (outputs, rank)
    # As both round it.
    narrow = max(1, int(hidden // meant.options["reduction_factor"]))
    shapes = {
        "adapter_down.0.weight": (narrow, hidden),
        "adapter_down.0.bias": (narrow,),
        "adapter_up.weight": (hidden, narrow),
        "adapter_up.bias": (hidden,),
        "scaling": (1,),
    }
    return shapes[part]
