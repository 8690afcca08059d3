"""How many singular values to keep: by energy, or by one budget for all weights together."""

from __future__ import annotations

import heapq
from collections.abc import Mapping

import torch
from torch import Tensor

from contpeft.errors import SpecError

__all__ = ["rank_for_energy", "water_fill"]


def rank_for_energy(s: Tensor, energy: float) -> int:
    """Returns the smallest rank that keeps a share of the squared singular values.

    Args:
        s: ``(r,)``, going down.
        energy: the share of ``sum(s^2)`` to keep, above 0 and at most 1.

    Raises:
        SpecError: if ``energy`` is no such share.
    """
    if not 0 < energy <= 1:
        raise SpecError(f"energy {energy:g} is no share; give more than 0 and at most 1")
    kept = s.square().cumsum(0)
    if s.numel() == 0 or not bool(kept[-1] > 0):
        return 0
    if energy == 1:
        return int(torch.count_nonzero(s))
    return int(torch.searchsorted(kept, energy * kept[-1])) + 1


def water_fill(spectra: Mapping[str, Tensor], costs: Mapping[str, int], budget: int) -> dict[str, int]:
    """Shares a budget among weights so that the energy kept for it is greatest, greedily.

    The singular value with the most energy for what it costs comes next, whichever weight it is of; ties go
    to the name that sorts first. With equal costs this is the optimum; else it is within one singular value
    of it.

    Args:
        spectra: ``(r,)`` singular values of each weight, going down.
        costs: what one singular value of it costs, such as bytes; positive.
        budget: what all may cost together.

    Returns:
        The rank of each weight.

    Raises:
        SpecError: if a cost is not positive, or the budget is negative.
    """
    if budget < 0 or any(costs[name] <= 0 for name in spectra):
        raise SpecError(
            f"budget {budget} or a cost is not usable; give a budget of 0 or more and positive costs"
        )
    ranks = dict.fromkeys(spectra, 0)
    energies = {name: (s.square() / costs[name]).tolist() for name, s in spectra.items()}
    waiting = [(-values[0], name) for name, values in energies.items() if values]
    heapq.heapify(waiting)
    while waiting:
        gain, name = heapq.heappop(waiting)
        if gain == 0 or costs[name] > budget:
            continue
        budget -= costs[name]
        ranks[name] += 1
        if ranks[name] < len(energies[name]):
            heapq.heappush(waiting, (-energies[name][ranks[name]], name))
    return ranks
