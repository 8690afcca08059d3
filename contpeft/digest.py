"""Names for content: one digest for JSON values, one for named tensors.

Everything that is compared by content (base models, versions, compositions, data) is named by a
function of this module, so equal content has an equal name on every machine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

__all__ = ["bytes_digest", "canonical_json", "file_digest", "json_digest", "tensors_digest"]


def canonical_json(value: Any) -> str:
    """Returns ``value`` as JSON with sorted keys, no spaces, and no NaN or infinity.

    Raises:
        ValueError: if a float is not finite.
        TypeError: if a value has no JSON form.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def json_digest(value: Any) -> str:
    """Returns the SHA-256 (hex) of the canonical JSON of ``value``."""
    return bytes_digest(canonical_json(value).encode())


def bytes_digest(data: bytes | memoryview) -> str:
    """Returns the SHA-256 (hex) of ``data``."""
    return hashlib.sha256(data).hexdigest()


def file_digest(path: Path) -> str:
    """Returns the SHA-256 (hex) of the content of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tensors_digest(tensors: Iterable[tuple[str, str, tuple[int, ...], bytes | memoryview]]) -> str:
    """Returns the SHA-256 (hex) over named tensors, independent of their order.

    Every part is length-prefixed, so no two different sets of tensors feed the same bytes.

    Args:
        tensors: ``(name, dtype, shape, raw little-endian bytes)``; ``dtype`` as safetensors
            spells it (``"F32"``, ``"BF16"``, ``"I64"``).
    """
    hasher = hashlib.sha256()
    for name, dtype, shape, data in sorted(tensors, key=lambda item: item[0]):
        header = canonical_json([name, dtype, list(shape)]).encode()
        hasher.update(len(header).to_bytes(8, "little"))
        hasher.update(header)
        view = memoryview(data).cast("B") if isinstance(data, memoryview) else data
        hasher.update(len(view).to_bytes(8, "little"))
        hasher.update(view)
    return hasher.hexdigest()
