"""A buffer of rows as tensors, so that it is stored, named by its content and resumed like any version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from contpeft.spec import AdapterState

__all__ = ["Buffer", "Row"]

_WORD = 8  # bytes of a size, a label's number and a rank
_SIZES = "_sizes"


@dataclass(frozen=True, eq=False)
class Row:
    """One kept row.

    Attributes:
        content: the raw input as bytes; see :mod:`contpeft.strategies.replay.codec`.
        label: its class.
        rank: what it is kept by, the lowest longest.
        more: what else is kept of it, by name: its scores, its hidden states.
    """

    content: bytes
    label: str
    rank: float
    more: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """What it takes in the tensors of a buffer, in bytes."""
        extra = sum(each.numel() * each.element_size() + _WORD * each.ndim for each in self.more.values())
        return len(self.content) + 3 * _WORD + extra


@dataclass(frozen=True, eq=False)
class Buffer:
    """Rows in the order in which they came.

    Attributes:
        rows: the rows; all of them have the same further things.
        below: the lowest rank that was ever dropped for want of room; None if none was.
    """

    rows: tuple[Row, ...]
    below: float | None = None

    @property
    def nbytes(self) -> int:
        """What its tensors take, in bytes."""
        return sum(row.nbytes for row in self.rows)

    def tensors(self) -> dict[str, Tensor]:
        """Returns its tensors; the sizes of ragged things are beside them, a row a row."""
        known = list(self._labels())
        named = {
            "content": _bytes(b"".join(row.content for row in self.rows)),
            f"content{_SIZES}": torch.tensor([len(row.content) for row in self.rows]),
            "labels": torch.tensor([known.index(row.label) for row in self.rows]),
            "ranks": torch.tensor([row.rank for row in self.rows], dtype=torch.float64),
        }
        for name in self.rows[0].more:
            kept = [row.more[name].detach().cpu() for row in self.rows]
            named[name] = torch.cat([each.flatten() for each in kept])
            named[f"{name}{_SIZES}"] = torch.tensor([list(each.shape) for each in kept])
        return named

    def facts(self) -> dict[str, Any]:
        """Returns what is told of it in the catalogue, with what reading it back needs."""
        return {
            "labels": list(self._labels()),
            "more": sorted(self.rows[0].more),
            "rows": len(self.rows),
            "bytes": self.nbytes,
            "below": self.below,
        }

    @classmethod
    def of(cls, state: AdapterState | None) -> Buffer:
        """Returns the buffer that was stored; an empty one if none was."""
        if state is None:
            return cls(())
        tensors, labels = state.tensors, state.config["labels"]
        contents = _cut(tensors["content"], tensors[f"content{_SIZES}"].unsqueeze(1))
        more = {name: _cut(tensors[name], tensors[f"{name}{_SIZES}"]) for name in state.config["more"]}
        return cls(
            tuple(
                Row(
                    content.numpy().tobytes(),
                    labels[label],
                    rank,
                    {name: each[row] for name, each in more.items()},
                )
                for row, (content, label, rank) in enumerate(
                    zip(contents, tensors["labels"].tolist(), tensors["ranks"].tolist(), strict=True)
                )
            ),
            state.config["below"],
        )

    def _labels(self) -> dict[str, None]:
        return dict.fromkeys(row.label for row in self.rows)


def _bytes(content: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(content, dtype=np.uint8).copy())


def _cut(flat: Tensor, sizes: Tensor) -> Sequence[Tensor]:
    """Returns the pieces of a flat tensor that have these shapes ``(n, ndim)``."""
    pieces = torch.split(flat, sizes.prod(1).tolist())
    return [piece.reshape(size) for piece, size in zip(pieces, sizes.tolist(), strict=True)]
