"""A tiny sequence for tests of searching methods: nonsense words, learnt by a random model of two layers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
import yaml
from sequence_files import kill_command
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertModel

WORDS = {"a": "one two", "b": "red blue", "c": "cat dog", "d": "sun moon"}
LENGTH = 4


class TinyClassifier(L.LightningModule):
    """A random BERT that reads letters."""

    def __init__(self, learning_rate: float = 1e-2, fail_above: float = 1.0) -> None:
        super().__init__()
        sizes = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
        self.model = BertModel(BertConfig(vocab_size=32, max_position_embeddings=LENGTH, **sizes))
        self.head: nn.Module = nn.Identity()
        self.learning_rate, self.fail_above = learning_rate, fail_above

    def collate(self, inputs: Sequence[str]) -> dict[str, Tensor]:
        rows = [[ord(letter) % 32 for letter in text[:LENGTH].ljust(LENGTH)] for text in inputs]
        return {"input_ids": torch.tensor(rows)}

    def encode(self, batch: dict[str, Tensor]) -> Tensor:
        states: Tensor = self.model(input_ids=batch["input_ids"]).last_hidden_state
        return states.mean(1)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        scores: Tensor = self.head(self.encode(batch))
        return scores

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self(batch), batch["labels"])
        return loss * torch.nan if self.learning_rate > self.fail_above else loss

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=self.learning_rate)


class NoRate(TinyClassifier):
    """The same with a learning rate that nobody sets."""

    def __init__(self) -> None:
        super().__init__()


def write_sequence(
    folder: Path,
    module: str = "TinyClassifier",
    *,
    words: Mapping[str, str] = WORDS,
    epochs: int = 1,
    **options: Any,
) -> Path:
    """Returns an experiment of tasks of two classes in ``folder``, with its data beside it."""
    data = folder / "words"
    data.mkdir()
    for split, count in (("train", 16), ("test", 4)):
        rows = [
            {"text": f"{word[0]}{n % 7}{word[1:]}{split}{n}", "label": label}
            for label, pair in words.items()
            for n, word in enumerate(pair.split() * (count // 2))
        ]
        (data / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    experiment = {
        "name": "tiny",
        "stream": {"source": {"class_path": "LocalFolder", "init_args": {"path": str(data)}}},
        "module": {"class_path": f"search_files.{module}", "init_args": options},
        "adapter": {"method": "lora", "r": 4, "alpha": 4},
        "strategies": ["frozen", "sequential", "isolated"],
        "trainer": {"max_epochs": epochs},
        "batch_size": 8,
        "threads": 1,
        "store": str(folder / "adapters"),
        "report": str(folder / "reports"),
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(experiment))
    return path


def kill_search(commands: Path, experiment: Path, moment: str, *options: str) -> None:
    """Starts the search and kills it when it has said ``moment``."""
    kill_command([str(commands / "contpeft"), "search", str(experiment), *options], moment)
