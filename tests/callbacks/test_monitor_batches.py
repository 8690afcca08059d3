"""Loaders and batches a monitor cannot measure are refused by name."""

from __future__ import annotations

from typing import Any

import pytest
from callbacks_tiny import (
    LORA,
    TinyModule,
    opposite,
    task_loader,
)
from torch import Tensor

from contpeft import AdapterStore, ContinualAdapter, ForgettingMonitor
from contpeft.errors import SpecError, UnsupportedError


def test_an_empty_loader_is_refused(store: AdapterStore, module: TinyModule) -> None:
    monitor = ForgettingMonitor(store, {"refunds": []})
    with pytest.raises(SpecError, match="the loader of earlier task 'refunds' is empty"):
        opposite(module, ContinualAdapter(store, "billing", LORA), monitor, epochs=1)


def column(batch: Any) -> Tensor:
    labels: Tensor = batch["labels"][:, None]
    return labels


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": column}, r"scores of shape \(8, 2\) and labels of shape \(8, 1\) are not"),
        ({"predict": lambda m, b: m(b).argmax(-1)}, r"scores of shape \(8,\) and labels of shape \(8,\)"),
    ],
)
def test_shapes_that_would_be_compared_crosswise_are_refused(
    store: AdapterStore, module: TinyModule, options: dict[str, Any], message: str
) -> None:
    monitor = ForgettingMonitor(store, {"refunds": task_loader()}, **options)
    with pytest.raises(UnsupportedError, match=message):
        opposite(module, ContinualAdapter(store, "billing", LORA), monitor, epochs=1)


def test_answers_and_labels_that_are_no_tensors_are_refused(store: AdapterStore, module: Any) -> None:
    nameless = [{"input_ids": batch["input_ids"]} for batch in task_loader()]
    module.predict_step = lambda batch, batch_idx: {"scores": module(batch)}
    for data, message in (
        (task_loader(), "returns dict, not scores"),
        (nameless, "no 'labels' in the"),
    ):
        monitor = ForgettingMonitor(store, {"refunds": data})
        with pytest.raises(UnsupportedError, match=message):
            opposite(module, ContinualAdapter(store, "billing", LORA), monitor, epochs=1)
