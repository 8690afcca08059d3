"""A moving average beside the adapter that is trained: of its tensors, or of the updates they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, Literal

from torch import Tensor

from contpeft.adapters import stored_factors
from contpeft.errors import SpecError, UnsupportedError
from contpeft.merging.fuse import Source
from contpeft.merging.kinds import LowRank
from contpeft.merging.update import decompose, truncated
from contpeft.spec import AdapterState
from contpeft.strategies.context import Context

__all__ = ["AVERAGE", "Space", "averages", "check_averaged", "live_values", "stored_values", "with_averages"]

Space = Literal["factors", "delta"]
"""What is averaged: the adapter's tensors one by one, or the products of LoRA's factors, dense."""

AVERAGE: Final = "average"
"""The part of a way's line that averages are registered under."""

_PART: Final = "an average of updates"


def live_values(context: Context, space: Space) -> dict[str, Tensor]:
    """Returns what is averaged as it is now: parameters by their stored names, or updates by module.

    Raises:
        UnsupportedError: if no adapter is attached, or it has no updates to average.
    """
    if space == "delta":
        return {module: each.delta().detach() for module, each in context.factors(_PART).items()}
    attached = context.adapted.attachment
    if attached is None:
        raise UnsupportedError("a moving average follows an adapter; none is attached")
    named = context.once("averaged parameters", attached.named_parameters)
    return {name: parameter.detach() for name, parameter in named.items()}


def check_averaged(context: Context, space: Space) -> None:
    """Checks that the adapter at hand has what is to be averaged.

    Raises:
        UnsupportedError: as :func:`live_values` does.
    """
    if space == "delta":
        context.factors(_PART)


def stored_values(state: AdapterState, space: Space) -> dict[str, Tensor]:
    """Returns the same of a stored adapter."""
    if space == "delta":
        return {module: each.delta() for module, each in stored_factors(state, _PART).items()}
    return state.adapter_tensors()


def averages(context: Context) -> dict[str, Tensor]:
    """Returns the averages of this fit so far by name, on the CPU; none before the first step."""
    cut = f"{AVERAGE}."
    found = {name: tensor for name, tensor in context.working.items() if name.startswith(cut)}
    return {name.removeprefix(cut): tensor.detach().cpu() for name, tensor in found.items()}


def with_averages(
    state: AdapterState, values: Mapping[str, Tensor], space: Space, rank: int | None
) -> tuple[AdapterState, dict[str, Any]]:
    """Returns an adapter with averages in the place of what was trained, and how exact it is.

    Args:
        state: the adapter as trained.
        values: what :func:`averages` returned.
        space: what they are averages of.
        rank: largest rank of an averaged update; None for as many as it has.

    Returns:
        The adapter, and ``{"lost": ...}``: the share of the average's squared norm that was cut off.

    Raises:
        SpecError: if the averages are not of that space.
    """
    if not values.keys() <= stored_values(state, space).keys():
        raise SpecError(f"there is no average in the space {space!r}; give Follow and KeepAverage one space")
    if space == "factors":
        own = {name: each.to(state.tensors[name].dtype) for name, each in values.items()}
        return replace(state, tensors={**state.tensors, **own}), {"lost": 0.0}
    form = LowRank([Source("the average", "", state.kind, state.config, state.adapter_tensors())])
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    whole = left = 0.0
    for module, delta in values.items():
        update = decompose(delta.double())
        kept, lost = truncated(update, update.rank if rank is None else rank)
        energy = float(update.s.square().sum())
        whole, left = whole + energy, left + energy * float(lost)
        ranks[module] = kept.rank
        tensors |= form.tensors(module, kept)
    heads = {name: t for name, t in state.tensors.items() if name not in state.adapter_tensors()}
    made = AdapterState(state.kind, form.config(ranks), {**tensors, **heads}, state.head)
    return made, {"lost": left / whole if whole else 0.0}
