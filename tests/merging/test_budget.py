"""Ranks for an energy, and one budget for many weights."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from contpeft.errors import SpecError
from contpeft.merging import rank_for_energy, water_fill

SPECTRA = st.lists(
    st.lists(st.integers(1, 9), min_size=0, max_size=3).map(lambda s: sorted(s, reverse=True)),
    min_size=1,
    max_size=3,
)


@pytest.mark.parametrize(
    ("energy", "rank"), [(0.01, 1), (16 / 26, 1), (0.62, 2), (25 / 26, 2), (0.97, 3), (1, 3)]
)
def test_rank_for_energy(energy: float, rank: int) -> None:
    assert rank_for_energy(torch.tensor([4.0, 3.0, 1.0, 0.0], dtype=torch.float64), energy) == rank


def test_no_energy_needs_no_rank() -> None:
    assert rank_for_energy(torch.zeros(3), 0.9) == 0
    assert rank_for_energy(torch.zeros(0), 1) == 0
    for energy in (0.0, 1.1, float("nan")):
        with pytest.raises(SpecError, match="is no share; give more than 0 and at most 1"):
            rank_for_energy(torch.ones(2), energy)


@given(spectra=SPECTRA, budget=st.integers(0, 10))
def test_with_equal_costs_nothing_is_better(spectra: list[list[int]], budget: int) -> None:
    named = {str(place): torch.tensor(s, dtype=torch.float64) for place, s in enumerate(spectra)}
    ranks = water_fill(named, dict.fromkeys(named, 2), budget)
    assert 2 * sum(ranks.values()) <= budget

    def energy(of: tuple[int, ...]) -> int:
        return sum(value**2 for s, rank in zip(spectra, of, strict=True) for value in s[:rank])

    choices = product(*(range(len(s) + 1) for s in spectra))
    best = max(energy(of) for of in choices if 2 * sum(of) <= budget)
    assert energy(tuple(ranks.values())) == best


def test_what_costs_less_comes_first() -> None:
    spectra = {"wide": torch.tensor([3.0, 3.0]), "narrow": torch.tensor([2.0, 2.0]), "none": torch.zeros(2)}
    costs = {"wide": 10, "narrow": 3, "none": 1}
    assert water_fill(spectra, costs, 16) == {"wide": 1, "narrow": 2, "none": 0}
    assert water_fill(spectra, costs, 9) == {"wide": 0, "narrow": 2, "none": 0}
    for bad in ({"wide": 0, "narrow": 1, "none": 1}, {"wide": -1, "narrow": 1, "none": 1}):
        with pytest.raises(SpecError, match="budget 5 or a cost is not usable"):
            water_fill(spectra, bad, 5)
