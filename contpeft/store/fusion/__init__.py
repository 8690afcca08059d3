"""Versions made of versions: merged straight from the files, and the recipes to make them again."""

from contpeft.store.fusion.fusing import Candidate, Fusing, Plan, Verdict
from contpeft.store.fusion.request import Request
from contpeft.store.fusion.running import next_step

__all__ = ["Candidate", "Fusing", "Plan", "Request", "Verdict", "next_step"]
