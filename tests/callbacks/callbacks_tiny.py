"""Small random models, two-class tasks and quiet trainers for the callbacks' tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from transformers import BertConfig, BertModel

from contpeft import AdapterSpec
from contpeft.adapters import AdaptedModel
from contpeft.callbacks import ContinualAdapter

VOCABULARY, WIDTH, LENGTH = 32, 16, 6

Batch = dict[str, Tensor]

LORA = AdapterSpec("lora", r=4)


def tiny_bert(dropout: float = 0.1) -> BertModel:
    """Returns a BERT with random weights, the same at every call."""
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * WIDTH,
        max_position_embeddings=LENGTH,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return BertModel(config, add_pooling_layer=False).eval()  # as from_pretrained returns one


class TinyModule(L.LightningModule):
    """Somebody's ordinary module: a frozen-to-be encoder, a linear head, an optimizer over what trains."""

    def __init__(self, classes: int = 2, dropout: float = 0.1, rate: float = 1e-2) -> None:
        super().__init__()
        self.model: Any = tiny_bert(dropout)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.head = nn.Linear(WIDTH, classes)
        self.rate = rate

    def forward(self, batch: Batch) -> Tensor:
        states: Tensor = self.model(input_ids=batch["input_ids"]).last_hidden_state
        return self.head(states.mean(1))

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        return F.cross_entropy(self(batch), batch["labels"])

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=self.rate)


class ValidatedModule(TinyModule):
    """The same with a validation step."""

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        right = (self(batch).argmax(-1) == batch["labels"]).float().mean()
        self.log("val_acc", right, batch_size=len(batch["labels"]))


class Probe(L.Callback):
    """Calls a function at the start of every training batch."""

    def __init__(self, look: Callable[[L.Trainer, Any], object]) -> None:
        self.seen: list[Any] = []
        self._look = look

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.seen.append(self._look(trainer, pl_module))


def task_loader(*, flipped: bool = False, rows: int = 32, batch: int = 8) -> DataLoader[Any]:
    """Returns a task any tiny model can learn: which half of the vocabulary a text is of.

    Args:
        flipped: give each row the other label, which makes the opposite task.
        rows: how many rows, half of them of each class.
        batch: batch size.
    """
    generator = torch.Generator().manual_seed(2)
    labels = torch.arange(rows) % 2
    ids = (
        torch.randint(VOCABULARY // 2, (rows, LENGTH), generator=generator)
        + labels[:, None] * VOCABULARY // 2
    )
    labels = 1 - labels if flipped else labels
    data = [{"input_ids": i, "labels": y} for i, y in zip(ids, labels, strict=True)]
    return DataLoader(data, batch_size=batch)  # type: ignore[arg-type]


def quiet_trainer(*callbacks: L.Callback, epochs: int = 1, **options: Any) -> L.Trainer:
    """Returns a trainer on one CPU that writes nothing unless told to."""
    settings: dict[str, Any] = {
        "max_epochs": epochs,
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return L.Trainer(callbacks=list(callbacks), **(settings | options))


def learn(
    module: L.LightningModule, continual: ContinualAdapter, *others: L.Callback, **options: Any
) -> L.Trainer:
    """Fits one task on :func:`task_loader`, or on ``data``, and returns the trainer."""
    data = options.pop("data", None) or task_loader()
    trainer = quiet_trainer(continual, *others, **options)
    trainer.fit(module, data)
    return trainer


def parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yields the parameters that train."""
    return ((name, p) for name, p in module.named_parameters() if p.requires_grad)


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    """Returns copies of all tensors of the bare base and the head, with their flags appended."""
    adapted = AdaptedModel.of(module)
    assert not adapted.active
    return {f"{name} {p.requires_grad}": p.detach().clone() for name, p in module.named_parameters()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Returns whether two sets of named tensors are equal bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def opposite(module: L.LightningModule, *callbacks: L.Callback, **options: Any) -> L.Trainer:
    """Learns the task with every label flipped."""
    trainer = quiet_trainer(*callbacks, **({"epochs": 8} | options))
    trainer.fit(module, task_loader(flipped=True), task_loader(flipped=True))
    return trainer
