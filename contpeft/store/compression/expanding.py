"""From coordinates in a shared basis to the factors of a LoRA adapter.

A file that holds coordinates names the file of its basis by digest, in a tensor of its own. So whoever
knows the fingerprint of the one knows the content of the other. Both have the tensors of a LoRA adapter
under their names: the basis ``U`` ``(d_out, p)`` as a left factor and ``V^T`` ``(q, d_in)`` as a right one,
the file of the version ``(p, r)`` and ``(r, q)`` between them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from contpeft.errors import IntegrityError
from contpeft.spec import AdapterState
from contpeft.store.tensors import BASIS

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Expanded", "basis_digest", "expand", "mark"]

_LEFT: Final = (".lora_B.weight", ".lora_embedding_B")


def mark(sha256: str) -> Tensor:
    """Returns the tensor that names the file of a basis."""
    import torch

    return torch.tensor(list(bytes.fromhex(sha256)), dtype=torch.uint8)


def basis_digest(tensors: Mapping[str, Tensor], what: str) -> str:
    """Returns the digest of the file that a version's coordinates are told in.

    Raises:
        IntegrityError: if it is none, naming ``what``.
    """
    values = tensors[BASIS].flatten().tolist()
    if len(values) != 32 or not all(isinstance(value, int) and 0 <= value < 256 for value in values):
        raise IntegrityError(f"{what} names its basis by what is no digest; restore a backup of the store")
    return bytes(values).hex()


def expand(name: str, inner: Tensor, basis: Tensor) -> Tensor:
    """Returns a factor as its method has it, in the type of its coordinates, computed in double precision.

    Args:
        name: of the factor.
        inner: ``(p, r)`` of a left factor, ``(r, q)`` of a right one.
        basis: ``(d_out, p, ...)`` or ``(q, d_in, ...)``; what follows is a convolution's kernel.
    """
    if name.endswith(_LEFT):
        flat = basis.flatten(1).double() @ inner.double()
        return flat.to(inner.dtype).reshape(basis.shape[0], inner.shape[1], *basis.shape[2:])
    flat = inner.double() @ basis.flatten(1).double()
    return flat.to(inner.dtype).reshape(inner.shape[0], *basis.shape[1:])


class Expanded(Mapping[str, "Tensor"]):
    """The tensors of a version whose file holds coordinates, each expanded when it is asked for.

    Args:
        tensors: what is in the file of the version.
        basis: what is in the file of its basis.
        what: the version, for messages.

    Raises:
        IntegrityError: if the coordinates are not those of this basis.
    """

    def __init__(self, tensors: Mapping[str, Tensor], basis: Mapping[str, Tensor], what: str) -> None:
        """Checks that every factor has its basis; expands none."""
        self._tensors = tensors
        self._basis = basis
        self._what = what
        self._names = [name for name in tensors if name != BASIS]
        lacking = next((name for name in self._names if self._is_inner(name) and name not in basis), None)
        if lacking:
            raise IntegrityError(
                f"{what} is told in a basis that lacks {lacking!r}; restore a backup of the store"
            )

    def __getitem__(self, name: str) -> Tensor:
        if name == BASIS:
            raise KeyError(name)
        tensor = self._tensors[name]
        if not self._is_inner(name):
            return tensor
        basis = self._basis[name]
        inner, between = (0, 1) if name.endswith(_LEFT) else (1, 0)
        if tensor.ndim != 2 or basis.ndim < 2 or tensor.shape[inner] != basis.shape[between]:
            raise IntegrityError(f"{self._what} has a factor {name!r} that does not fit its basis")
        return expand(name, tensor, basis)

    def __contains__(self, name: object) -> bool:
        # That of Mapping would expand the tensor.
        return name in self._tensors and name != BASIS

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def _is_inner(self, name: str) -> bool:
        return not name.startswith(AdapterState.HEAD_PREFIX)
