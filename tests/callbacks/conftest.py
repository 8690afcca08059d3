"""What the callbacks' tests share: a store, and the helpers beside this file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from contpeft import ContinualAdapter
from contpeft.store import AdapterStore

# The tests and the script of the two-process test import the helpers (callbacks_tiny) by name.
sys.path.append(str(Path(__file__).parent))

from callbacks_tiny import LORA, ValidatedModule, quiet_trainer, task_loader


@pytest.fixture
def store(tmp_path: Path) -> Iterator[AdapterStore]:
    opened = AdapterStore(tmp_path / "store")
    yield opened
    opened.close()


@pytest.fixture
def module(store: AdapterStore) -> ValidatedModule:
    """Returns a module that has learnt ``refunds`` perfectly; ``refunds@1`` is in the store."""
    module = ValidatedModule(dropout=0.0, rate=3e-2)
    trainer = quiet_trainer(ContinualAdapter(store, "refunds", LORA), epochs=8)
    trainer.fit(module, task_loader(), task_loader())
    assert float(trainer.callback_metrics["val_acc"]) == 1.0
    return module
