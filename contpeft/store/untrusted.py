"""Files from elsewhere: read within limits, whatever is in them; refused in one line.

What parsers let pass is looked for here: a key that is there twice, a number that is none, a header
of hundreds of thousands of tensors, a name that is a path. Pickles are opened for those alone who insist,
and then nothing but tensors is made of them.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from contpeft.errors import IntegrityError, NotFoundError, UnsupportedError
from contpeft.store.disk import one_line_errors

if TYPE_CHECKING:
    import torch

__all__ = ["check_header", "check_structure", "read_json", "read_pickle", "read_tensors", "refuse_pickle"]

HEADER_BYTES: Final = 8_000_000
TENSORS: Final = 20_000
_TENSOR_NAME: Final = re.compile(r"[A-Za-z0-9_.\-]{1,512}\Z")
# AdapterHub's fusions have the names of their members in those of tensors.
_LISTED_NAME: Final = re.compile(r"[A-Za-z0-9_.,\-]{1,512}\Z")
_DTYPES: Final = frozenset({"F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL"})
_PICKLES: Final = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")


def refuse_pickle(path: Path) -> None:
    """Refuses a file that is a pickle by its name: reading one runs what is in it.

    Raises:
        UnsupportedError: naming it.
    """
    if path.suffix.lower() in _PICKLES:
        raise UnsupportedError(
            f"{path} is a pickle, which is never read; save the adapter again as safetensors"
        )


def read_json(path: Path) -> dict[str, Any]:
    """Returns the JSON object in a file.

    Raises:
        NotFoundError: if there is no such file.
        IntegrityError: if it is larger than 8 MB, or is no object, or has a key twice or a number that
            is none.
    """
    return _parse(_read(path, HEADER_BYTES), path)


def read_tensors(path: Path, *, commas: bool = False) -> dict[str, torch.Tensor]:
    """Returns the tensors of a safetensors file.

    Args:
        path: the file.
        commas: whether names may have them.

    Raises:
        NotFoundError: if there is no such file.
        IntegrityError: if it is malformed, has more than 20,000 tensors or a header of more than 8 MB,
            a hostile name, or a value that is NaN or infinite.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    data = _read(path)
    check_header(data, path, commas=commas)
    try:
        tensors = load(data)
    except (SafetensorError, RuntimeError, OverflowError) as error:
        raise _damaged(path, str(error).splitlines()[0]) from error
    _check_finite(tensors, path)
    return tensors


def read_pickle(path: Path, *, commas: bool = False) -> dict[str, torch.Tensor]:
    """Returns the tensors of a file that ``torch.save`` wrote, for those who insist: only tensors are made.

    Args:
        path: the file.
        commas: whether names may have them.

    Raises:
        NotFoundError: if there is no such file.
        IntegrityError: if it holds anything else than up to 20,000 dense tensors by name, a hostile name, or
            a value that is NaN or infinite.
    """
    from pickle import UnpicklingError  # noqa: TID251 - the error alone

    import torch

    data = _read(path)
    try:
        found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (UnpicklingError, EOFError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise _damaged(path, f"it is no pickle of tensors alone: {reason}") from error
    if not isinstance(found, dict) or len(found) > TENSORS:
        raise _damaged(path, f"it holds a {type(found).__name__}, not up to {TENSORS:,} tensors by name")
    for name, tensor in found.items():
        if not isinstance(name, str) or not (_LISTED_NAME if commas else _TENSOR_NAME).match(name):
            raise _damaged(path, f"it has a tensor named {str(name)[:60]!r}")
        if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided or tensor.is_meta:
            raise _damaged(path, f"{name!r} is no dense tensor")
    tensors = {name: tensor.detach().contiguous().clone() for name, tensor in found.items()}
    _check_finite(tensors, path)
    return tensors


def _check_finite(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    import torch

    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise _damaged(path, f"tensor {name!r} has values that are NaN or infinite")


def check_header(data: bytes, what: Path | str, *, commas: bool = False) -> None:
    """Checks what safetensors itself lets pass in a header: its size, names, types and keys.

    Args:
        data: the file.
        what: names it in errors.
        commas: whether names may have them.

    Raises:
        IntegrityError: naming what is wrong.
    """
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > len(data) - 8:
        raise _damaged(what, "it is shorter than its header says")
    if length > HEADER_BYTES:
        raise _damaged(what, f"its header of {length:,} bytes is larger than {HEADER_BYTES:,}")
    header = _parse(data[8 : 8 + length], what)
    header.pop("__metadata__", None)
    if len(header) > TENSORS:
        raise _damaged(what, f"it has {len(header):,} tensors, more than {TENSORS:,}")
    for name, entry in header.items():
        if not (_LISTED_NAME if commas else _TENSOR_NAME).match(name):
            raise _damaged(what, f"it has a tensor named {name[:60]!r}")
        if not isinstance(entry, dict) or entry.get("dtype") not in _DTYPES:
            raise _damaged(what, f"tensor {name!r} is of no type that can be stored")


def check_structure(data: bytes, what: Path | str) -> None:
    """Checks that bytes are one whole safetensors file within limits; needs no torch.

    Raises:
        IntegrityError: naming what is wrong.
    """
    from safetensors import SafetensorError, deserialize

    check_header(data, what)
    try:
        deserialize(data)  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise _damaged(what, str(error).splitlines()[0]) from error


def _read(path: Path, limit: int | None = None) -> bytes:
    with one_line_errors(path):
        if not path.is_file():
            raise NotFoundError(f"there is no file {path}")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if limit is not None and size > limit:
                raise _damaged(path, f"it has {size:,} bytes, more than {limit:,}")
            return file.read()


def _parse(data: bytes, what: Path | str) -> dict[str, Any]:
    try:
        value = json.loads(data, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise _damaged(what, f"its JSON is malformed: {error}") from error
    if not isinstance(value, dict):
        raise _damaged(what, "its JSON is no object")
    return value


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"key {key[:60]!r} is there twice")
        found[key] = value
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _damaged(what: Path | str, reason: str) -> IntegrityError:
    return IntegrityError(f"{what} cannot be imported: {reason}")
