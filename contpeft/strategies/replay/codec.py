"""One raw input as bytes and back, exactly: what comes out is equal to what went in, or it is refused.

A line of ASCII says the form and what else the bytes do not tell; the content follows.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from contpeft.errors import UnsupportedError

__all__ = ["from_bytes", "to_bytes"]

_NUMBERS = "biufc"
# Modes whose bytes are the whole picture; others have a palette or an own layout.
_MODES = ("1", "L", "RGB", "RGBA")


def to_bytes(value: Any) -> bytes:
    """Returns a raw input as bytes.

    Args:
        value: a text, a list, tuple or dict of JSON values, an array or tensor of numbers, or an image.

    Raises:
        UnsupportedError: if it is none of these, or would not come back equal.
    """
    if isinstance(value, str):
        return _joined("text", value.encode("utf-8", "surrogatepass"))
    if isinstance(value, tuple | list | dict):
        return _joined(type(value).__name__, _json(value))
    if isinstance(value, np.ndarray):
        return _array("array", value)
    if isinstance(value, Tensor) and value.dtype != torch.bfloat16:
        return _array("tensor", value.detach().cpu().numpy())
    if isinstance(value, Image.Image) and value.mode in _MODES:
        return _joined(f"image {value.mode} {value.width} {value.height}", value.tobytes())
    raise UnsupportedError(
        f"a replay buffer cannot keep an input of type {type(value).__name__}{_mode(value)}; it keeps texts, "
        "lists and tuples of JSON values, arrays of numbers and images of the modes " + ", ".join(_MODES)
    )


def from_bytes(data: bytes) -> Any:
    """Returns the raw input that :func:`to_bytes` wrote."""
    line, _, content = data.partition(b"\n")
    form, *details = line.decode("ascii").split()
    if form == "text":
        return content.decode("utf-8", "surrogatepass")
    if form == "image":
        mode, width, height = details
        return Image.frombytes(mode, (int(width), int(height)), content)
    if form in ("array", "tensor"):
        return _numbers(form, details, content)
    return {"tuple": tuple, "list": list, "dict": dict}[form](json.loads(content))


def _joined(line: str, content: bytes) -> bytes:
    return line.encode("ascii") + b"\n" + content


def _json(value: Any) -> bytes:
    plain = dict(value) if isinstance(value, dict) else list(value)
    try:
        told = json.dumps(plain, allow_nan=False, separators=(",", ":"))
        exact = repr(json.loads(told)) == repr(plain)  # repr tells tuples, True and 1.0 from what equals them
    except (TypeError, ValueError):
        exact = False
    if not exact:
        raise UnsupportedError(
            f"a replay buffer cannot keep this {type(value).__name__}: it holds something that JSON does not "
            "give back as it was, such as a tuple inside, a number of numpy, or NaN; use an array"
        )
    return told.encode()


def _array(form: str, value: np.ndarray[Any, Any]) -> bytes:
    if value.dtype.kind not in _NUMBERS:
        raise UnsupportedError(
            f"a replay buffer cannot keep an array of {value.dtype}; it keeps arrays of numbers"
        )
    sizes = " ".join(map(str, value.shape))
    return _joined(f"{form} {value.dtype.str} {sizes}", np.ascontiguousarray(value).tobytes())


def _numbers(form: str, details: list[str], content: bytes) -> Any:
    dtype, *sizes = details
    array = np.frombuffer(content, dtype=dtype).reshape([int(size) for size in sizes]).copy()
    return torch.from_numpy(array) if form == "tensor" else array


def _mode(value: Any) -> str:
    return f" and mode {value.mode!r}" if isinstance(value, Image.Image) else ""
