"""Subspaces of what layers read: those that earlier tasks need, and what is free beside them."""

from contpeft.strategies.subspaces.energy import Energy, grown, leading_rows
from contpeft.strategies.subspaces.memory import PROTECTED, Protected, check_room, read_moments
from contpeft.strategies.subspaces.subspace import Subspace

__all__ = [
    "PROTECTED",
    "Energy",
    "Protected",
    "Subspace",
    "check_room",
    "grown",
    "leading_rows",
    "read_moments",
]
