"""Adds continual learning to an ordinary Lightning script: two tasks, one model, nothing forgotten.

    python examples/add_to_your_trainer.py

The module, the loaders and the trainer are what such a script has anyway. What is new is marked
NEW: three callbacks, and a store the adapters end up in. The module itself does not change.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from transformers import AutoModel, AutoTokenizer

from contpeft import AdapterCheckpoint, AdapterSpec, AdapterStore, ContinualAdapter, ForgettingMonitor, Task
from contpeft.experiments.packages import packaged_model
from contpeft.experiments.sources import Newsgroups

TASKS = {
    "sport": ("rec.sport.baseball", "rec.sport.hockey"),
    "computers": ("comp.graphics", "comp.sys.mac.hardware"),
}


class TextClassifier(L.LightningModule):
    """Somebody's module: a pretrained encoder, a linear head, an optimizer over what trains."""

    def __init__(self, folder: str, layers: int, classes: int, learning_rate: float = 1e-3) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.model = AutoModel.from_pretrained(folder, num_hidden_layers=layers)
        self.head = nn.Linear(self.model.config.hidden_size, classes)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        states = self.model(**inputs).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1)
        scores: Tensor = self.head((states * mask).sum(1) / mask.sum(1))
        return scores

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self(batch), batch["labels"])
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        right = self(batch).argmax(-1) == batch["labels"]
        self.log("val_acc", right.float().mean(), prog_bar=True, batch_size=len(right))

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=self.learning_rate)


def text_loader(
    examples: Any, classes: Sequence[str], tokenizer: Any, rows: int, *, shuffle: bool = False
) -> DataLoader[Any]:
    """Returns batches of token ids and labels, ``rows`` texts of each class."""
    chosen: list[tuple[str, int]] = []
    for number, label in enumerate(classes):
        texts = [text for text, each in zip(examples.inputs, examples.labels, strict=True) if each == label]
        chosen += [(text, number) for text in texts[:rows]]

    def collate(batch: list[tuple[str, int]]) -> dict[str, Tensor]:
        texts, labels = zip(*batch, strict=True)
        tokens = tokenizer(list(texts), padding=True, truncation=True, max_length=64, return_tensors="pt")
        return {**tokens, "labels": torch.tensor(labels)}

    return DataLoader(chosen, batch_size=16, shuffle=shuffle, collate_fn=collate)  # type: ignore[arg-type]


def main(options: argparse.Namespace) -> None:
    L.seed_everything(0, verbose=False)
    folder = str(packaged_model("minilm"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    module = TextClassifier(folder, options.layers, classes=2)
    data = Newsgroups(classes=[name for classes in TASKS.values() for name in classes]).load()

    store = AdapterStore(options.store)  # NEW
    earlier: dict[str, DataLoader[Any]] = {}
    for task, classes in TASKS.items():
        train = text_loader(data.train, classes, tokenizer, options.rows, shuffle=True)
        test = text_loader(data.test, classes, tokenizer, options.rows)
        continual = ContinualAdapter(store, Task(task, classes), AdapterSpec("lora", r=8))  # NEW
        trainer = L.Trainer(  # a fresh one for each task
            max_epochs=options.epochs,
            accelerator="cpu",
            log_every_n_steps=1,
            callbacks=[
                continual,  # NEW: attaches an adapter, trains it and the head alone, registers both
                AdapterCheckpoint(),  # NEW: checkpoints of 1 MB instead of 90
                ForgettingMonitor(store, earlier),  # NEW: earlier tasks, each by its own adapter
                ForgettingMonitor(store, earlier, answered_by="current"),  # NEW: and by the one trained now
            ],
        )
        trainer.fit(module, train, test)
        (version,) = continual.registered
        accuracy = float(trainer.callback_metrics["val_acc"])
        print(f"{version.ref}: {version.parameters:,} parameters trained, {accuracy:.1%} right")
        earlier[task] = test

    print("\nThe task learnt first, asked again at the end:")
    for score in store.scores(run="monitor"):
        adapter = score.task if score.answer == "own" else score.way
        print(f"  {score.task} answered by {adapter}: {score.value:.1%} right")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Learns two tasks one after another with one model.")
    parser.add_argument("--store", default="adapters", help="folder of the adapter store")
    parser.add_argument("--rows", type=int, default=60, help="texts of each class, to train and to test on")
    parser.add_argument("--layers", type=int, default=6, help="layers of the encoder, 1 to 6")
    parser.add_argument("--epochs", type=int, default=3)
    main(parser.parse_args())
