"""Tensors to bytes and back: one safetensors file, the same bytes on every machine."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from contpeft.digest import tensors_digest
from contpeft.errors import IntegrityError, SpecError, TrainingError
from contpeft.spec import AdapterState

if TYPE_CHECKING:
    import torch

__all__ = [
    "BASIS",
    "Entry",
    "Payload",
    "count_parameters",
    "describe",
    "entries",
    "join",
    "serialize",
    "unpack",
    "unpack_file",
]

# Where a file names, by digest, the file of the basis that its own tensors are coordinates in.
BASIS: Final = "basis.sha256"

# The order of two or more metadata keys differs from process to process where others write them.
_METADATA = {"format": "pt"}
_RESERVED = "__metadata__"
_TENSOR_NAME = re.compile(r"[A-Za-z0-9_.\-]+\Z")
# As a safetensors file spells and orders them: the widest first, so that every tensor is aligned.
_SPELLED = {
    "int64": "I64",
    "float64": "F64",
    "float32": "F32",
    "int32": "I32",
    "bfloat16": "BF16",
    "float16": "F16",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
_ORDER = tuple(_SPELLED.values())

# Name, dtype as safetensors spells it, shape, raw bytes.
Entry = tuple[str, str, tuple[int, ...], memoryview]


@dataclass(frozen=True)
class Payload:
    """The file of one version, in memory.

    Attributes:
        data: the safetensors file.
        sha256: digest of ``data``.
        fingerprint: digest of the tensors, whatever file they are in.
        parameters: number of elements, head tensors excluded.
    """

    data: bytes
    sha256: str
    fingerprint: str
    parameters: int


def serialize(tensors: Mapping[str, Any], owner: str) -> bytes:
    """Returns ``tensors`` as a safetensors file, whose bytes depend on nothing else.

    Written here, because safetensors copies every tensor twice. The file is the one it would write.

    Args:
        tensors: name to dense tensor, on any device; tensors may share memory.
        owner: the adapter's name, for messages.

    Raises:
        SpecError: if there is no tensor, or one has a name or a type that cannot be stored.
        TrainingError: if a value is NaN or infinite.
    """
    if not tensors:
        raise SpecError(f"adapter {owner!r} has no tensors; there is nothing to store")
    for name, tensor in tensors.items():
        _check_tensor(name, tensor, owner)
    held = [_entry(name, tensor) for name, tensor in tensors.items()]
    held.sort(key=lambda entry: (_ORDER.index(entry[1]), entry[0]))
    return join(held)


def _entry(name: str, tensor: torch.Tensor) -> Entry:
    import torch

    raw = tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8).numpy()
    return name, _SPELLED[_dtype(tensor)], tuple(tensor.shape), raw.data


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def describe(data: bytes) -> tuple[str, int]:
    """Returns fingerprint and number of parameters of a file that :func:`serialize` made."""
    held = list(entries(data))
    return tensors_digest(held), count_parameters(held)


def unpack(data: bytes) -> dict[str, torch.Tensor]:
    """Returns the tensors of a safetensors file held in memory, written by :func:`serialize`."""
    from safetensors.torch import load

    return load(data)


def unpack_file(path: Path, what: str) -> dict[str, torch.Tensor]:
    """Returns the tensors of the safetensors file ``path``, mapped into memory, not verified.

    Raises:
        IntegrityError: if the file is missing or no safetensors file, naming ``what``.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise IntegrityError(f"{what} is damaged: {path}: {error}; register it again") from error


def _check_tensor(name: str, tensor: Any, owner: str) -> None:
    import torch

    where = f"tensor {name!r} of adapter {owner!r}"
    if not isinstance(name, str) or not _TENSOR_NAME.match(name) or name == _RESERVED:
        raise SpecError(f"{where} has an unusable name; use A-Z a-z 0-9 _ . -")
    if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided or tensor.is_meta:
        raise SpecError(f"{where} is no dense tensor with values; give a torch.Tensor on a device")
    if _dtype(tensor) not in _SPELLED:
        raise SpecError(f"{where} is {_dtype(tensor)}, which cannot be stored; convert it to float32")
    if not _is_finite(tensor):
        count = int((~torch.isfinite(tensor)).sum())
        raise TrainingError(
            f"{where} has {count} of {tensor.numel()} values that are NaN or infinite; "
            "a version must be usable: lower the learning rate or clip gradients, and train again"
        )


def _is_finite(tensor: torch.Tensor) -> bool:
    import torch

    if not tensor.is_floating_point() or math.isfinite(tensor.detach().sum().item()):
        return True
    # One NaN or infinite value makes the sum so, six times as fast; large values may do it too.
    return bool(torch.isfinite(tensor).all())


def entries(data: bytes) -> Iterator[Entry]:
    """Yields name, dtype, shape and raw bytes of each tensor of a safetensors file."""
    start = 8 + int.from_bytes(data[:8], "little")
    body = memoryview(data)[start:]
    for name, entry in json.loads(data[8:start]).items():
        if name != _RESERVED:
            begin, end = entry["data_offsets"]
            yield name, entry["dtype"], tuple(entry["shape"]), body[begin:end]


def join(tensors: Iterable[Entry]) -> bytes:
    """Returns a safetensors file of tensors that :func:`entries` yielded, in their order; needs no torch."""
    table: dict[str, Any] = {_RESERVED: _METADATA}
    bodies: list[memoryview] = []
    end = 0
    for name, dtype, shape, body in tensors:
        begin, end = end, end + body.nbytes
        table[name] = {"dtype": dtype, "shape": shape, "data_offsets": (begin, end)}
        bodies.append(body)
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format aligns what follows to 8 bytes
    return b"".join([len(text).to_bytes(8, "little"), text, *bodies])


def count_parameters(tensors: Iterable[Entry]) -> int:
    """Returns the number of elements of the tensors of an adapter, those of its head excluded."""
    own = (each for each in tensors if each[0] != BASIS and not each[0].startswith(AdapterState.HEAD_PREFIX))
    return sum(math.prod(shape) for _, _, shape, _ in own)
