"""From a catalogue entry and its file back to the state that was stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from contpeft.spec import AdapterState, Version
from contpeft.store.blobs import Blobs
from contpeft.store.compression.expanding import Expanded, basis_digest
from contpeft.store.tensors import BASIS, entries, serialize, unpack, unpack_file

if TYPE_CHECKING:
    import torch

__all__ = ["file_bytes", "load"]


def load(blobs: Blobs, version: Version, store: str, *, verify: bool) -> AdapterState:
    """Returns the state of a version, its tensors on the CPU.

    Raises:
        IntegrityError: if the file, or that of a basis it shares, is missing or, as far as it is checked,
            not what was stored.
    """
    what = f"version {version.ref!r} in {store}"
    tensors = _tensors(blobs, version.sha256, what, verify=verify)
    if BASIS in tensors:
        basis = _tensors(blobs, basis_digest(tensors, what), f"the basis of {what}", verify=verify)
        tensors = dict(Expanded(tensors, basis, what))
    return AdapterState(version.kind, version.config, tensors, version.head)


def file_bytes(blobs: Blobs, version: Version, store: str) -> bytes:
    """Returns the verified file of a version; of one that shares a basis, the file it would be without.

    Raises:
        IntegrityError: as :func:`load` does.
    """
    data = blobs.read(version.sha256, f"version {version.ref!r} in {store}")
    if all(name != BASIS for name, *_ in entries(data)):
        return data
    return serialize(load(blobs, version, store, verify=True).tensors, version.name)


def _tensors(blobs: Blobs, sha256: str, what: str, *, verify: bool) -> dict[str, torch.Tensor]:
    return unpack(blobs.read(sha256, what)) if verify else unpack_file(blobs.path(sha256), what)
