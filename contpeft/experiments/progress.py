"""What a running sequence tells whoever watches it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import lightning.pytorch as L

__all__ = ["Observer", "Progress", "ProgressCallback"]


@dataclass(frozen=True)
class Progress:
    """Where a run is.

    Attributes:
        way: the strategy.
        step: index of the task.
        steps: number of tasks the way learns.
        task: the task's name.
        phase: what is being done.
        epoch: from 1; 0 outside training.
        epochs: number of epochs.
        done: training batches finished in the whole run, earlier sessions included.
        total: training batches of the whole run.
        loss: of the last batch looked at.
    """

    way: str
    step: int
    steps: int
    task: str
    phase: Literal["start", "train", "evaluate", "finished", "kept"]
    epoch: int = 0
    epochs: int = 0
    done: int = 0
    total: int = 0
    loss: float | None = None


Observer = Callable[[Progress], None]


class ProgressCallback(L.Callback):
    """Tells an observer about training, at most ten times a second.

    Args:
        observer: is called with every report.
        at: the report to fill in.
    """

    def __init__(self, observer: Observer, at: Progress) -> None:
        self._observer = observer
        self._at = at
        self._last = 0.0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Reports the batch just trained on."""
        self._at = replace(self._at, phase="train", done=self._at.done + 1)
        if time.monotonic() - self._last >= 0.1:
            self._last = time.monotonic()
            # Reading the loss waits for the device, hence not at every batch.
            loss = float(outputs["loss"]) if isinstance(outputs, dict) else None
            epochs = trainer.max_epochs or 0
            self._observer(replace(self._at, epoch=trainer.current_epoch + 1, epochs=epochs, loss=loss))
