"""From a catalogue entry and its file back to the state that was stored."""

from __future__ import annotations

from contpeft.spec import AdapterState, Version
from contpeft.store.blobs import Blobs
from contpeft.store.tensors import unpack, unpack_file

__all__ = ["load"]


def load(blobs: Blobs, version: Version, store: str, *, verify: bool) -> AdapterState:
    """Returns the state of a version, its tensors on the CPU.

    Raises:
        IntegrityError: if the file is missing or, as far as it is checked, not what was stored.
    """
    what = f"version {version.ref!r} in {store}"
    if verify:
        tensors = unpack(blobs.read(version.sha256, what))
    else:
        tensors = unpack_file(blobs.path(version.sha256), what)
    return AdapterState(version.kind, version.config, tensors, version.head)
