"""Sizes as people write them."""

from __future__ import annotations

import re
from typing import Final

from contpeft.errors import UsageError

__all__ = ["parse_bytes"]

_BYTES: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGT]?)(i?)B?\Z")


def parse_bytes(text: str) -> int:
    """Returns ``500MB``, ``2GiB`` or ``1000`` as a number of bytes.

    Raises:
        UsageError: if it is none.
    """
    match = _BYTES.match(text)
    if match is None:
        raise UsageError(f"{text!r} is no size; write 500MB, 2GiB or a number of bytes")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** " kMGT".index(match[2] or " "))
