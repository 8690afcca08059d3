"""What versions are called in AdapterHub's folders, and what they keep of the folder they came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from contpeft.errors import SpecError, UsageError
from contpeft.spec import AdapterState, Version

__all__ = ["KEPT", "Member", "check_members", "hub_name", "hub_names", "kept_of"]

KEPT: Final = "adapterhub"
"""Where in ``recipe["imported"]`` a version keeps the files it came from."""

Member = tuple[Version, AdapterState]
"""A stored version that a fusion is over."""


def kept_of(version: Version) -> Mapping[str, Any]:
    """Returns what a version keeps of the folder it came from; empty if it came from elsewhere."""
    imported = (version.recipe or {}).get("imported")
    kept = imported.get(KEPT) if isinstance(imported, Mapping) else None
    return kept if isinstance(kept, Mapping) else {}


def hub_name(version: Version) -> str:
    """Returns what a version is called there: as it was, or its own name without dots."""
    adapter = kept_of(version).get("adapter")
    return str(adapter["name"]) if adapter else version.name.replace(".", "_")


def hub_names(versions: Sequence[Version]) -> list[str]:
    """Returns what versions are called there together: each in its own way, with their number if need be.

    Raises:
        SpecError: if two would be called the same.
    """
    names = [hub_name(version) for version in versions]
    twice = {name for name in names if names.count(name) > 1}
    numbered = [
        f"{name}_{version.n}" if name in twice else name
        for name, version in zip(names, versions, strict=True)
    ]
    if len(set(numbered)) < len(numbered):
        raise SpecError(f"two members of the fusion would both be {numbered[0]!r} there; rename one")
    return numbered


def check_members(told: object, versions: Sequence[Version], what: str) -> list[str]:
    """Checks that versions are the members that a fusion names, in its order.

    Args:
        told: its ``adapter_names``.
        versions: those given.
        what: names the fusion in errors.

    Returns:
        The names.

    Raises:
        UsageError: if they are none, too few or too many.
        SpecError: if one is another adapter, or the names are no list of texts.
    """
    if not isinstance(told, list) or len(told) < 2 or not all(isinstance(each, str) for each in told):
        raise SpecError(f"{what} has adapter_names {told!r}, which is no list of two or more adapters")
    if len(versions) != len(told):
        raise UsageError(
            f"{what} is over {len(told)} adapters ({', '.join(told)}), {len(versions)} were given; give the "
            "stored versions of these in this order (--over)"
        )
    for name, version in zip(told, versions, strict=True):
        if hub_name(version) != name:
            raise SpecError(
                f"{what} has {name!r} where {version.ref} was given, which is {hub_name(version)!r} there; "
                f"give the members in this order: {', '.join(told)}"
            )
    return list(told)
