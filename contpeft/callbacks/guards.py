"""Settings under which Lightning would let a per-task adapter go wrong without a word."""

from __future__ import annotations

import math
from collections.abc import Iterable

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, SingleDeviceStrategy, Strategy
from torch import nn

from contpeft.errors import TrainingError, UnsupportedError

__all__ = [
    "check_dtype",
    "check_steps_taken",
    "planned_steps",
    "refuse_manual",
    "refuse_settings",
    "verify_optimizers",
]


def refuse_settings(trainer: L.Trainer) -> None:
    """Refuses trainers whose fit would lose adapter weights.

    Raises:
        UnsupportedError: for strategies that train in processes this one never sees the weights of
            (spawn, fork, notebook), or that shard parameters; and for ``save_weights_only``
            checkpoints, which skip every callback and so save the whole frozen base.
    """
    _refuse_strategy(trainer.strategy)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, ModelCheckpoint) and callback.save_weights_only:
            raise UnsupportedError(
                "ModelCheckpoint(save_weights_only=True) skips the callbacks that keep a checkpoint small "
                "and named; leave it False and add AdapterCheckpoint()"
            )


def _refuse_strategy(strategy: Strategy) -> None:
    name = type(strategy).__name__
    whole = isinstance(strategy, SingleDeviceStrategy | DDPStrategy)
    if not whole or isinstance(strategy, DeepSpeedStrategy):
        raise UnsupportedError(
            f"strategy {name} is not supported: it shards or moves parameters so that an adapter cannot be "
            "taken out whole; use one device or strategy='ddp'"
        )
    if isinstance(strategy, DDPStrategy) and strategy._start_method != "popen":
        raise UnsupportedError(
            f"{name} with start_method={strategy._start_method!r} trains in processes whose adapter "
            "this one never gets; use strategy='ddp'"
        )


def refuse_manual(module: L.LightningModule) -> None:
    """Refuses a module that takes its optimizer steps itself, where loss or update are to be changed.

    Raises:
        UnsupportedError: if optimization is manual: what ``training_step`` returns is then ignored,
            and a batch may hold steps that no callback sees.
    """
    if not module.automatic_optimization:
        raise UnsupportedError(
            f"{type(module).__name__} optimizes manually, where penalties, projections and a method's work "
            "around a step have no effect; let Lightning optimize (automatic_optimization = True), or use a "
            "recipe and a method without them"
        )


def planned_steps(trainer: L.Trainer) -> int | None:
    """Returns how many optimizer steps the fit has, or None if it has no planned end."""
    steps = trainer.estimated_stepping_batches
    return int(steps) if math.isfinite(steps) else None


def check_dtype(trainer: L.Trainer, base: nn.Module, attached: torch.dtype | None) -> None:
    """Checks that the trainer's precision left the base as it was when the adapter was attached.

    Raises:
        TrainingError: if it was converted: the adapter would belong to a base nobody has loaded.
    """
    now = next(base.parameters()).dtype
    if now != attached:
        raise TrainingError(
            f"Trainer(precision={trainer.precision!r}) turned the base from {attached} into {now}, which is "
            "another base; load it in that dtype (from_pretrained(dtype=...)), or use a mixed precision"
        )


def verify_optimizers(trainer: L.Trainer, module: nn.Module, trainable: Iterable[nn.Parameter]) -> None:
    """Checks that exactly the trainable parameters are trained.

    Args:
        trainer: with its optimizers built.
        module: the user's module.
        trainable: what the adapter and the head consist of.

    Raises:
        TrainingError: if one of them is in no optimizer, or anything else requires a gradient.
    """
    wanted = {id(p): p for p in trainable}
    names = {id(p): name for name, p in module.named_parameters()}
    groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
    held = {id(p) for group in groups for p in group["params"]}
    missing = [names.get(key, "?") for key in wanted if key not in held]
    if missing:
        raise TrainingError(
            f"{len(missing)} of {len(wanted)} trainable tensors are in no optimizer (first: {missing[0]}); "
            "build the optimizer in configure_optimizers, from self.parameters() at that time"
        )
    stray = [name for name, p in module.named_parameters() if p.requires_grad and id(p) not in wanted]
    frozen = [names.get(key, "?") for key, p in wanted.items() if not p.requires_grad]
    if stray or frozen:
        raise TrainingError(
            f"requires_grad was changed after the adapter was attached: {len(stray)} foreign tensors "
            f"train, {len(frozen)} of the adapter do not (first: {(stray + frozen)[0]}); "
            "leave the flags to the callback"
        )


def check_steps_taken(trainer: L.Trainer, steps: int, task: str) -> None:
    """Checks that the fit trained anything.

    Raises:
        TrainingError: if no step was taken.
    """
    if steps == 0:
        raise TrainingError(
            f"the fit of task {task!r} took no training step (max_epochs={trainer.max_epochs}, epoch "
            f"{trainer.current_epoch} reached); make a fresh Trainer for each task"
        )
