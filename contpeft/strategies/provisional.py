"""Adapters that are measured before they are stored, or instead."""

from __future__ import annotations

from contpeft.adapters import tensor_items
from contpeft.digest import json_digest, tensors_digest
from contpeft.spec import AdapterState, BaseModel, Parent, Version

__all__ = ["provisional"]


def provisional(state: AdapterState, parents: tuple[str, ...], base: BaseModel) -> Version:
    """Returns the entry an adapter would have in the catalogue, as far as measuring needs it.

    Args:
        state: the adapter.
        parents: references of what it was made from.
        base: the model it is for.
    """
    fingerprint = tensors_digest(tensor_items(dict(state.tensors)))
    head = state.head.to_json() if state.head else None
    name = json_digest([state.kind, dict(state.config), fingerprint, head, list(parents)])[:16]
    return Version(
        ref=f"unstored:{name}",
        name="unstored",
        n=0,
        kind=state.kind,
        fingerprint=fingerprint,
        sha256="",
        bytes=0,
        parameters=0,
        config=state.config,
        head=state.head,
        base=base,
        origin="fused",
        parents=tuple(Parent(ref, "fused") for ref in parents),
        recipe=None,
        run=None,
        task=None,
        data=None,
        environment={},
        seconds=None,
        created_at="",
    )
