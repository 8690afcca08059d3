"""A running merge: one version after another, each made of the one before and one more adapter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from contpeft.errors import UsageError
from contpeft.spec import Version
from contpeft.store.fusion.request import Request

__all__ = ["adapters_in", "next_step"]


def next_step(request: Request, line: Sequence[Version], new: Version) -> Request:
    """Returns what the next version of a running merge is made of.

    Args:
        request: rule, rank and the like.
        line: the versions of the running merge so far, oldest first; none before it began.
        new: what is taken in.

    Raises:
        UsageError: if ``line`` is no running merge or goes by another rule, or ``new`` is in it already.
    """
    if not line:
        return replace(request, refs=[new.ref], weights=None)
    running = line[-1]
    told = running.recipe or {}
    if "seen" not in told:
        raise UsageError(f"{running.ref} is no running merge; name one, or an adapter that is not there yet")
    if told["rule"] != request.rule:
        raise UsageError(f"the running merge {running.name!r} goes by rule {told['rule']!r}; go on with it")
    if new.fingerprint in {each["fingerprint"] for each in _inputs(line)}:
        raise UsageError(f"{new.ref} is in the running merge {running.name!r} already; take another one in")
    weight, parameters = 1.0, dict(request.parameters)
    if request.rule == "average":
        weight = float(told["seen"])
    if request.rule == "opcm":
        weight = 1 / told["learned"]["factor"]
        parameters |= {"seen": told["seen"], "mean_norm": told["learned"]["mean_norm"]}
    return replace(request, refs=[running.ref, new.ref], weights=[weight, 1.0], parameters=parameters)


def adapters_in(line: Sequence[Version]) -> int:
    """Returns how many adapters a running merge has taken in."""
    return int((line[-1].recipe or {})["seen"]) if line else 0


def _inputs(line: Sequence[Version]) -> list[dict[str, object]]:
    return [each for version in line for each in (version.recipe or {}).get("inputs", ())]
