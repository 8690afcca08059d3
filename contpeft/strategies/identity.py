"""Names for what answers, before it is stored too."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

from contpeft.adapters import tensor_items
from contpeft.digest import json_digest, tensors_digest
from contpeft.spec import AdapterState, Base, BaseModel, Single
from contpeft.spec.identity import composition_key, content_key, key_of
from contpeft.strategies.recipe import Recipe

__all__ = ["composition_key", "recipe_digest", "state_key"]


def state_key(state: AdapterState | None, base: BaseModel, reads: str = "") -> str:
    """Returns the key of an adapter that is not stored: the one it would have as a version.

    Args:
        state: the adapter and head; None for the bare base.
        base: the model it answers on.
        reads: as in :func:`~contpeft.spec.identity.composition_key`.
    """
    if state is None:
        return key_of(Base(), base, str, reads)
    fingerprint = tensors_digest(tensor_items(dict(state.tensors)))
    content = content_key(state.kind, state.config, fingerprint, state.head)
    return key_of(Single("state"), base, lambda _ref: content, reads)


def recipe_digest(recipe: Recipe) -> str:
    """Returns the digest of a recipe's parts and their values; what is told of it does not count."""
    return json_digest(_plain(recipe))


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        told = {each.name: _plain(getattr(value, each.name)) for each in fields(value) if each.compare}
        return {"part": type(value).__name__, **told}
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    if isinstance(value, frozenset | set):
        return sorted(map(str, value))
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
