"""What parts that merge adapters between tasks have in common: how merges are named, found and registered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from contpeft.errors import UnsupportedError
from contpeft.merging import Source, check_mergeable
from contpeft.spec import AdapterState, Parent, Version
from contpeft.store import Request
from contpeft.strategies.context import Context

__all__ = ["MERGED", "answering_merge", "check_merged", "register", "running_merge"]

MERGED: Final = "merged"
"""The part of a way's line that holds what merging came to; other parts hold what is made of that."""


def check_merged(context: Context, request: Request) -> None:
    """Checks that adapters such as the one at hand can be merged so.

    Args:
        context: the task at hand, its adapter attached.
        request: rule, parameters and rank; its versions do not count.

    Raises:
        UnsupportedError: if their method has no merge by the rule, or the rule needs what no part measures.
        NotFoundError: if there is no such rule.
        UsageError: if a parameter or the rank is refused.
        SpecError: if the adapter has not the tensors of its method.
    """
    fusion, attached = request.fusion(), context.adapted.attachment
    if needs := fusion.rule.spec.needs:
        raise UnsupportedError(
            f"rule {request.rule!r} needs {' and '.join(needs)} of every adapter, which no part measures; "
            "merge afterwards by contpeft store fuse, or use another rule"
        )
    if attached is not None:
        own = Source("the adapter", "", attached.kind, attached.config_json(), attached.tensors())
        check_mergeable(own, fusion.rule)


def answering_merge(versions: Sequence[Version]) -> Version | None:
    """Returns the last merge among versions, which is the one that answers; None if nothing was merged."""
    return next((version for version in reversed(versions) if version.origin == "fused"), None)


def running_merge(context: Context) -> Version | None:
    """Returns what the earlier tasks' adapters were merged into; None before the second task is learnt.

    It is looked up in what the way's finished steps registered: what a step that was killed had left in the
    store is passed over.
    """
    name = context.name_of(MERGED)
    return next((v for v in reversed(context.history) if v.name == name and v.origin == "fused"), None)


def register(
    context: Context,
    part: str,
    state: AdapterState,
    parents: Sequence[Parent],
    recipe: Mapping[str, Any],
) -> Version:
    """Registers a merge as the next version of one part's line.

    Args:
        context: the task after which it is made.
        part: whose line it belongs to.
        state: the merged adapter.
        parents: what it is made of.
        recipe: how it is made again.
    """
    return context.store.register(
        context.name_of(part),
        state,
        base=context.adapted.base,
        origin="fused",
        parents=parents,
        recipe=recipe,
        run=context.run,
        task=context.task.name,
    )
