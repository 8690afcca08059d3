"""Names for what answers: equal adapters on an equal base have an equal key, whatever they are called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from contpeft.adapters import tensor_items
from contpeft.digest import json_digest, tensors_digest
from contpeft.spec import AdapterState, Base, BaseModel, Composition, HeadSpec, Single, Version

__all__ = ["composition_key", "state_key"]


def composition_key(
    composition: Composition, base: BaseModel, show: Callable[[str], Version], reads: str = ""
) -> str:
    """Returns the key under which measurements of ``composition`` are cached.

    Args:
        composition: what answers.
        base: the model it answers on.
        show: gives a version's catalogue entry.
        reads: names how raw inputs become batches (tokenizer, length), where that may vary.
    """

    def content(ref: str) -> str:
        version = show(ref)
        return _content(version.kind, version.config, version.fingerprint, version.head)

    return _key(composition, base, content, reads)


def state_key(state: AdapterState | None, base: BaseModel, reads: str = "") -> str:
    """Returns the key of an adapter that is not stored: the one it would have as a version.

    Args:
        state: the adapter and head; None for the bare base.
        base: the model it answers on.
        reads: as in :func:`composition_key`.
    """
    if state is None:
        return _key(Base(), base, str, reads)
    fingerprint = tensors_digest(tensor_items(dict(state.tensors)))
    content = _content(state.kind, state.config, fingerprint, state.head)
    return _key(Single("state"), base, lambda _ref: content, reads)


def _key(composition: Composition, base: BaseModel, content: Callable[[str], str], reads: str) -> str:
    return json_digest([base.fingerprint, composition.digest(content), reads])


def _content(kind: str, config: Mapping[str, Any], fingerprint: str, head: HeadSpec | None) -> str:
    return json_digest([kind, dict(config), fingerprint, head.to_json() if head else None])
