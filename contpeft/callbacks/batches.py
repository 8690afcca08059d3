"""What a monitor reads from a user's batches: scores, labels, and the digest of the rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import lightning.pytorch as L
from torch import Tensor

from contpeft.adapters import tensor_items
from contpeft.digest import json_digest, tensors_digest
from contpeft.errors import UnsupportedError

__all__ = ["batch_digest", "count_hits", "find_labels", "predict_scores"]


def predict_scores(pl_module: L.LightningModule, batch: Any) -> Tensor:
    """Returns scores ``(B, C)`` by ``predict_step``, its ``logits`` if that returns a transformers output.

    Raises:
        UnsupportedError: if it returns something else.
    """
    outputs = pl_module.predict_step(batch, 0)
    scores = getattr(outputs, "logits", outputs)
    if not isinstance(scores, Tensor):
        raise UnsupportedError(
            f"{type(pl_module).__name__}.predict_step returns {type(scores).__name__}, not scores; "
            "pass ForgettingMonitor(predict=...)"
        )
    return scores


def find_labels(batch: Any) -> Tensor:
    """Returns the class indices ``(B,)`` of a batch: ``batch["labels"]``, or the last of a sequence.

    Raises:
        UnsupportedError: if they are not there.
    """
    labels = batch.get("labels") if isinstance(batch, Mapping) else batch[-1]
    if not isinstance(labels, Tensor):
        raise UnsupportedError("no 'labels' in the batch; pass ForgettingMonitor(labels=...)")
    return labels


def count_hits(scores: Tensor, labels: Tensor) -> int:
    """Returns how many rows of ``scores (B, C)`` have their highest score at the label ``(B,)``.

    Raises:
        UnsupportedError: if the shapes are others, which PyTorch would compare crosswise.
    """
    if scores.ndim != 2 or labels.shape != scores.shape[:1]:
        raise UnsupportedError(
            f"scores of shape {tuple(scores.shape)} and labels of shape {tuple(labels.shape)} are not (B, C) "
            "and (B,); pass ForgettingMonitor(predict=..., labels=...)"
        )
    return int((scores.argmax(-1) == labels).sum())


def batch_digest(batch: Any) -> str:
    """Returns the digest of a batch's tensors, numbers and texts, however they are nested.

    Raises:
        UnsupportedError: if it holds anything else.
    """
    leaves = dict(_leaves(batch, ""))
    tensors = {name: leaf for name, leaf in leaves.items() if isinstance(leaf, Tensor)}
    rest = {name: leaf for name, leaf in leaves.items() if name not in tensors}
    for name, leaf in rest.items():
        if not (leaf is None or isinstance(leaf, str | int | float)):
            raise UnsupportedError(
                f"a batch holds a {type(leaf).__name__} at {name!r}, which has no digest; "
                "let the loader give tensors, numbers and texts"
            )
    return json_digest([tensors_digest(tensor_items(tensors)), rest])


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        items = [(str(key), each) for key, each in value.items()]
    elif isinstance(value, list | tuple):
        items = [(str(position), each) for position, each in enumerate(value)]
    else:
        yield name, value
        return
    for key, each in items:
        yield from _leaves(each, f"{name}.{key}" if name else key)
