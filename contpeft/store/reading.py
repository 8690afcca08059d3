"""The tensors of a version one by one: verified as a stream, then read when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from contpeft.errors import IntegrityError
from contpeft.spec import Version
from contpeft.store.blobs import Blobs
from contpeft.store.compression.expanding import Expanded, basis_digest
from contpeft.store.tensors import BASIS

if TYPE_CHECKING:
    import torch

__all__ = ["open_tensors"]


class _Tensors(Mapping[str, "torch.Tensor"]):
    """The tensors of an open safetensors file, by name; iterating over the names reads none."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._names = dict.fromkeys(file.keys())

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self._names:
            raise KeyError(name)
        tensor: torch.Tensor = self._file.get_tensor(name)
        return tensor

    def __contains__(self, name: object) -> bool:
        # That of Mapping would read the tensor.
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@contextmanager
def open_tensors(blobs: Blobs, version: Version, store: str) -> Iterator[Mapping[str, torch.Tensor]]:
    """Yields the tensors of a version by name, on the CPU, each read when it is asked for.

    Every byte is checked against the digest first, in one pass that holds no more than a buffer. What is
    read are views of the mapped file and stay usable afterwards; another one asked for under the same name
    is read anew. Of a version that shares a basis the factors are made when asked for.

    Args:
        blobs: the files.
        version: whose tensors.
        store: the store's folder, for messages.

    Raises:
        IntegrityError: if the file, or that of its basis, is missing or not what was stored.
    """
    what = f"version {version.ref!r} in {store}"
    with ExitStack() as files:
        tensors: Mapping[str, torch.Tensor] = files.enter_context(_opened(blobs, version.sha256, what))
        if BASIS in tensors:
            basis = files.enter_context(_opened(blobs, basis_digest(tensors, what), f"the basis of {what}"))
            tensors = Expanded(tensors, basis, what)
        yield tensors


@contextmanager
def _opened(blobs: Blobs, sha256: str, what: str) -> Iterator[_Tensors]:
    from safetensors import SafetensorError, safe_open

    path = blobs.checked(sha256, what)
    try:
        file = safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise IntegrityError(f"{what} is damaged: {path}: {error}; register it again") from error
    with file as opened:
        yield _Tensors(opened)
