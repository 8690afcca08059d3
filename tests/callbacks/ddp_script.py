"""What two ranks do in test_ddp.py. Lightning starts this script again as the second process.

Each rank writes what it saw to ``FOLDER/rank-N.json``.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from callbacks_tiny import ValidatedModule, quiet_trainer, task_loader
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from contpeft import AdapterCheckpoint, AdapterSpec, AdapterStore, ContinualAdapter, ForgettingMonitor
from contpeft.adapters import AdaptedModel, tensor_items
from contpeft.digest import tensors_digest
from contpeft.errors import ContpeftError
from contpeft.strategies import Context, Recipe

LORA = AdapterSpec("lora", r=4, dropout=0.1)


@dataclass(frozen=True)
class LabelDecay:
    """A penalty that depends on the rank's own rows."""

    def loss(self, context: Context, batch: Any, outputs: Any) -> Tensor:
        trained = [p for p in context.adapted.module.parameters() if p.requires_grad]
        weight: Tensor = 0.01 * batch["input_ids"].float().mean()
        return weight * torch.stack([p.square().sum() for p in trained]).sum()


def digest(module: ValidatedModule) -> str:
    """Returns the digest of adapter and head."""
    return tensors_digest(tensor_items(dict(AdaptedModel.of(module).state().tensors)))


def learn(store: AdapterStore, folder: Path, module: ValidatedModule, rank: int) -> dict[str, Any]:
    """Learns two tasks, each rank from other random numbers; the second with a monitor."""
    torch.manual_seed(100 + rank)
    first = ContinualAdapter(store, "refunds", LORA, recipe=Recipe(penalty=LabelDecay()))
    fit(module, first)
    digests = [digest(module)]
    second = ContinualAdapter(store, "billing", LORA)
    monitor = ForgettingMonitor(store, {"refunds": task_loader()}, when="epoch")
    checkpoints = ModelCheckpoint(folder / "checkpoints", monitor="acc/refunds", save_last=True)
    trainer = fit(module, second, monitor, AdapterCheckpoint(), checkpoints)
    digests.append(digest(module))
    return {
        "random": torch.rand(1).item(),
        "digests": digests,
        "registered": [version.ref for each in (first, second) for version in each.registered],
        "logged": float(trainer.callback_metrics["acc/refunds"]),
    }


def fail(store: AdapterStore, module: ValidatedModule, rank: int) -> dict[str, Any]:
    """Learns a third task whose registration fails on rank zero."""

    def register(*args: Any, **kwargs: Any) -> None:
        raise OSError("no space left on device")

    if rank == 0:
        store.register = register  # type: ignore[method-assign, assignment]
    continual = ContinualAdapter(store, "orders", LORA)
    try:
        fit(module, continual)
    except (ContpeftError, OSError) as error:
        return {"error": f"{type(error).__name__}: {error}", "failed": len(continual.registered)}
    return {"error": None}


def fit(module: ValidatedModule, *callbacks: Any) -> Any:
    checkpoints = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    trainer = quiet_trainer(*callbacks, epochs=2, strategy="ddp", devices=2, enable_checkpointing=checkpoints)
    trainer.fit(module, task_loader(), task_loader())
    return trainer


def main(folder: Path) -> None:
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    torch.set_num_threads(1)
    store, module = AdapterStore(folder / "store"), ValidatedModule()
    seen = learn(store, folder, module, rank) | fail(store, module, rank)
    (folder / f"rank-{rank}.json").write_text(json.dumps(seen))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
