"""Labelled rows, named by what they are made of."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from contpeft.errors import SpecError

__all__ = ["Examples", "content_digest"]


@dataclass(frozen=True, eq=False)
class Examples:
    """Labelled rows, in order.

    Two of them are equal if inputs, labels and ids are, whatever the inputs are made of.

    Attributes:
        inputs: texts, arrays of numbers, or images.
        labels: class names, one per row.
        ids: stable names of the rows, unique.
        columns: what else is known of the rows (channel, language, ...), one value a row; by these a
            score is broken down, and they are no part of the digest.
    """

    inputs: tuple[Any, ...]
    labels: tuple[str, ...]
    ids: tuple[str, ...]
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises :class:`SpecError` for columns of unequal length or an id that occurs twice."""
        lengths = (len(self.inputs), len(self.labels), len(self.ids))
        if len(set(lengths)) != 1:
            raise SpecError(
                "examples need as many inputs, labels and ids; there are {}, {} and {}".format(*lengths)
            )
        for name, values in self.columns.items():
            if len(values) != len(self.ids):
                raise SpecError(f"column {name!r} has {len(values)} values for {len(self.ids)} rows")
        if len(set(self.ids)) != len(self.ids):
            twice, _ = Counter(self.ids).most_common(1)[0]
            raise SpecError(f"row id {twice!r} occurs twice; ids must be unique")

    def __len__(self) -> int:
        return len(self.ids)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Examples) and self.ids == other.ids and self.digest() == other.digest()

    def __hash__(self) -> int:
        return hash(self.ids)

    def select(self, indices: Iterable[int]) -> Examples:
        """Returns the rows at ``indices``, in that order."""
        rows = tuple(indices)
        return Examples(
            tuple(self.inputs[row] for row in rows),
            tuple(self.labels[row] for row in rows),
            tuple(self.ids[row] for row in rows),
            {name: tuple(values[row] for row in rows) for name, values in self.columns.items()},
        )

    def digest(self) -> str:
        """Returns the digest of inputs and labels, in order; neither ids nor columns enter."""
        return content_digest(part for row in zip(self.inputs, self.labels, strict=True) for part in row)

    @staticmethod
    def joined(parts: Sequence[Examples]) -> Examples:
        """Returns the rows of all ``parts``, one part after the other, with the columns all of them have."""
        names = parts[0].columns if parts else ()
        shared = [name for name in names if all(name in part.columns for part in parts)]
        return Examples(
            tuple(value for part in parts for value in part.inputs),
            tuple(label for part in parts for label in part.labels),
            tuple(row_id for part in parts for row_id in part.ids),
            {name: tuple(value for part in parts for value in part.columns[name]) for name in shared},
        )


def content_digest(values: Iterable[Any]) -> str:
    """Returns the SHA-256 (hex) over ``values``, which depends on their order.

    Every part is length-prefixed, so no two different sequences feed the same bytes.

    Args:
        values: texts, arrays of numbers, or images (anything ``numpy.asarray`` makes such an array of).

    Raises:
        SpecError: if a value is none of them.
    """
    hasher = hashlib.sha256()
    for value in values:
        for part in _encode(value):
            hasher.update(len(part).to_bytes(8, "little"))
            hasher.update(part)
    return hasher.hexdigest()


def _encode(value: Any) -> tuple[bytes, bytes]:
    """Returns what kind of value it is, and its content."""
    if isinstance(value, str):
        return b"text", value.encode()
    if getattr(value, "mode", None) == "P":
        # The array of a palette image holds indices: two images may differ in the palette alone.
        value = value.convert("RGBA")
    array = np.asarray(value)
    if array.dtype.kind not in "biufc":
        raise SpecError(
            f"an input is a {type(value).__name__}; it must be text, an array of numbers or an image"
        )
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return f"{array.dtype.str}{list(array.shape)}".encode(), array.tobytes()
