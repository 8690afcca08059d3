"""What an epoch costs when the layers below the adapter compute each row once.

    make bench-prefix-cache

MiniLM with LoRA (r=8, query and value) in the top 2 of its 6 layers and a linear head, batches of 32 x 48
tokens, on one thread. Times are CPU time of whole epochs of ``Trainer.fit``. Both sides run in turn.
"""

from __future__ import annotations

import copy
import logging
import tempfile
import time
import warnings
from functools import cache
from typing import Any

import lightning.pytorch as L
import torch
from _harness import Pair, compare, in_turn, save
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from transformers import AutoModel
from transformers.utils.logging import disable_progress_bar

from contpeft import AdapterSpec, ContinualAdapter
from contpeft.adapters import PrefixCache
from contpeft.experiments.packages import packaged_model

BATCH, TOKENS, BATCHES, EPOCHS, PAIRS = 32, 48, 4, 3, 5
SPEC = AdapterSpec("lora", r=8, alpha=16, targets=("query", "value"), layers_to_transform=(4, 5))


@cache
def pretrained() -> nn.Module:
    """Returns MiniLM, read once."""
    model: nn.Module = AutoModel.from_pretrained(packaged_model("minilm"))
    return model


class Classifier(L.LightningModule):
    """MiniLM and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.model: Any = copy.deepcopy(pretrained())
        self.head = nn.Linear(384, 4)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        states = self.model(input_ids=batch["input_ids"]).last_hidden_state
        return F.cross_entropy(self.head(states.mean(1)), batch["labels"])

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=1e-4)


def rows() -> DataLoader[Any]:
    """Returns the same rows at every call, shuffled anew in every epoch."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 30000, (BATCHES * BATCH, TOKENS), generator=generator)
    found = [{"input_ids": each, "labels": torch.tensor(k % 4)} for k, each in enumerate(ids)]
    return DataLoader(found, BATCH, shuffle=True)  # type: ignore[arg-type]


class EpochClock(L.Callback):
    """Measures the CPU time of each epoch."""

    def __init__(self) -> None:
        self.epochs: list[float] = []
        self._started = 0.0

    def on_train_epoch_start(self, *hook: Any) -> None:
        self._started = time.process_time()

    def on_train_epoch_end(self, *hook: Any) -> None:
        self.epochs.append(time.process_time() - self._started)


def epochs(kept: PrefixCache | None) -> list[float]:
    """Trains a fresh module; returns milliseconds of each epoch."""
    clock = EpochClock()
    with tempfile.TemporaryDirectory() as store:
        callbacks = [ContinualAdapter(store, "task", SPEC, prefix_cache=kept), clock]
        trainer = L.Trainer(
            max_epochs=EPOCHS,
            accelerator="cpu",
            callbacks=callbacks,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(Classifier(), rows())
    return [1000 * each for each in clock.epochs]


def main() -> None:
    """Measures, prints and saves."""
    disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    first: list[float] = []
    sizes: list[int] = []

    def with_cache() -> float:
        kept = PrefixCache("256MB")
        measured = epochs(kept)
        first.append(measured[0])
        sizes.append(kept.nbytes)
        return measured[-1]

    epochs(None)
    pairs = in_turn(with_cache, lambda: epochs(None)[-1], PAIRS)
    filling: list[Pair] = [(each, without) for each, (_, without) in zip(first, pairs, strict=True)]
    sides = ("with cache", "without")
    results = [
        compare("a later epoch", sides, pairs, "ms", goal=0.6),
        compare("the first epoch", sides, filling, "ms"),
    ]
    for each in results:
        print(each)
    facts = {"model": "minilm", "batch": [BATCH, TOKENS], "batches": BATCHES, "adapter": str(SPEC)}
    print(save("prefix_cache", results, facts | {"bytes kept": sizes[0], "threads": 1}))


if __name__ == "__main__":
    main()
