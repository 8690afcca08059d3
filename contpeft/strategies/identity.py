"""Names for what answers, before it is stored too."""

from __future__ import annotations

from contpeft.adapters import tensor_items
from contpeft.digest import tensors_digest
from contpeft.spec import AdapterState, Base, BaseModel, Single
from contpeft.spec.identity import composition_key, content_key, key_of

__all__ = ["composition_key", "state_key"]


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
