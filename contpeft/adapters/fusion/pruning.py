"""Fusions of which each site keeps the members that get most attention.

Rücklé et al. (2021, AdapterDrop), section on pruning AdapterFusion: what is hardly attended to costs as much
as what is, and can go after training. The fusion's own tensors do not depend on its members and stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from contpeft.adapters.fusion.members import Kept
from contpeft.errors import UsageError
from contpeft.spec import AdapterState

__all__ = ["most_attended", "pruned"]


def most_attended(means: Mapping[str, Sequence[float]], keep: int, kept: Kept | None = None) -> Kept:
    """Returns the members that each site attends to most, in their order; of equals the first.

    Args:
        means: mean attention on each member, by the path of the site.
        keep: how many a site keeps.
        kept: those a site has; None for all.

    Raises:
        UsageError: if there is nothing to keep or to drop.
    """
    there = {path: range(len(row)) if kept is None else kept[path] for path, row in means.items()}
    largest = max(map(len, there.values()))
    if not 1 <= keep < largest:
        raise UsageError(
            f"keeping {keep} of {largest} members prunes nothing"
            if keep >= largest
            else f"a site must keep 1 member at least, not {keep}"
        )
    return {
        path: tuple(sorted(sorted(there[path], key=lambda place: -row[place])[:keep]))
        for path, row in means.items()
    }


def pruned(state: AdapterState, kept: Kept) -> AdapterState:
    """Returns a fusion whose sites mix some of its members; those that no site keeps it is no longer over.

    Args:
        state: a stored fusion.
        kept: the places of members that a site keeps, by its path.
    """
    used = sorted({place for places in kept.values() for place in places})
    config: dict[str, Any] = {
        **state.config,
        "over": [state.config["over"][place] for place in used],
        "kept": {path: [used.index(place) for place in places] for path, places in kept.items()},
    }
    return replace(state, config=config)
