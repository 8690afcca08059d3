"""Every adapter method on real weights and data: learnt under Lightning, stored, read back, exported.

The models are MiniLM with sentences of VADER, DINOv2 with pictures of Fashion-MNIST, and SmolLM2.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.utils.data import DataLoader

from contpeft import AdapterSpec, ContinualAdapter, Single
from contpeft.adapters import AdaptedModel, method_names
from contpeft.errors import SpecError, UnsupportedError
from contpeft.experiments import ImageClassifier, TextClassifier
from contpeft.experiments.archives import fetch, fetched
from contpeft.experiments.sources import FashionMnist, Vader
from contpeft.store import AdapterStore

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.usefixtures("no_compiler"),
]

# What methods without a usual value for an option are given.
OPTIONS: dict[str, dict[str, Any]] = {
    "adalora": {"init_r": 12, "target_r": 8},
    "c3a": {"block_size": 64},
    "trainable_tokens": {"token_indices": [2003, 2009, 2025]},
    "vblora": {"vector_length": 64},
}
# What has no place in an image encoder, and why.
NOT_IN_DINOV2 = {
    "mam": "prefix",
    "p_tuning_v2": "prefix",
    "prefix_tuning": "prefix",
    "trainable_tokens": "",
    "unipelt": "prefix",
}
RATES = {"randlora": 3e-4}  # diverges at the rate of the others
ROWS = 48


def spec(method: str) -> AdapterSpec:
    return AdapterSpec(method, **OPTIONS.get(method, {}))


class Task:
    """Rows of two classes, and how a fresh module that learns them is made."""

    def __init__(self, make: Callable[[], Any], inputs: Sequence[Any], labels: Sequence[int]) -> None:
        self._make, self.inputs, self.labels = make, inputs, torch.tensor(labels)

    def module(self) -> Any:
        torch.manual_seed(0)
        module = self._make()
        module.head = nn.Linear(384, 2)
        return module

    def loader(self, module: Any) -> DataLoader[Any]:
        def collate(rows: list[int]) -> dict[str, Tensor]:
            return {**module.collate([self.inputs[row] for row in rows]), "labels": self.labels[rows]}

        return DataLoader(range(ROWS), batch_size=16, collate_fn=collate)  # type: ignore[arg-type]

    def scores(self, module: Any) -> Tensor:
        module.eval()
        with torch.no_grad():
            return module(module.collate(self.inputs[:16]))


@cache
def texts() -> Task:
    fetch("vader")
    rows = Vader(domains=["products"]).load().train
    labels = [int(label == "positive") for label in rows.labels[:ROWS]]
    return Task(lambda: TextClassifier(max_length=32), rows.inputs[:ROWS], labels)


@cache
def pictures() -> Task:
    fetch("dinov2"), fetch("fashion-mnist")
    rows = FashionMnist(classes=["sandal", "bag"], train_rows=1000).load().train
    labels = [int(label == "bag") for label in rows.labels[:ROWS]]
    make = lambda: ImageClassifier("dinov2", image_size=56)  # noqa: E731
    return Task(make, rows.inputs[:ROWS], labels)


def learn(task: Task, store: AdapterStore, made: AdapterSpec) -> tuple[Any, list[float]]:
    """Returns a module that has learnt a task as a user would, and the loss of every step."""
    module = task.module()
    module.learning_rate = RATES.get(made.method, 3e-3)
    return module, fit(module, ContinualAdapter(store, "task", made), task.loader(module), epochs=4)


def fit(module: Any, callback: L.Callback, batches: Any, epochs: int) -> list[float]:
    """Trains under Lightning; returns the loss of every step."""
    losses: list[float] = []

    class Watch(L.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *rest: Any) -> None:
            losses.append(float(outputs["loss"]))

    quiet: dict[str, Any] = dict(logger=False, enable_progress_bar=False, enable_checkpointing=False)
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[callback, Watch()],
        enable_model_summary=False,
        **quiet,
    )
    trainer.fit(module, DataLoader(batches, batch_size=None) if isinstance(batches, list) else batches)  # type: ignore[arg-type]
    return losses


def through_the_house(task: Task, method: str, tmp_path: Path) -> None:
    store = AdapterStore(tmp_path / "store")
    module, losses = learn(task, store, spec(method))
    assert all(map(torch.isfinite, map(torch.tensor, losses)))
    learnt = sum(losses[-3:]) / sum(losses[:3])
    assert learnt < 1.0, f"{method} learnt nothing: the loss went to {learnt:.2f} of what it was"
    answered = task.scores(module)
    fresh = task.module()
    adapted = AdaptedModel.of(fresh)
    plain = task.scores(fresh)
    version = store.show("task@1")
    assert version.base.fingerprint == adapted.base.fingerprint
    with adapted.applied(Single("task@1"), lambda ref: (store.show(ref), store.load(ref))):
        assert torch.equal(task.scores(fresh), answered)
    assert torch.equal(task.scores(fresh), plain)
    assert not torch.equal(plain, answered)
    exported(task, store, tmp_path / "out", module)
    store.close()


def exported(task: Task, store: AdapterStore, out: Path, module: Any) -> None:
    """Checks that PEFT computes what we do from an exported folder, or that there is none."""
    version = store.show("task@1")
    if version.kind == "union" and version.config["gated"]:
        with pytest.raises(UnsupportedError, match="union with gates"):
            store.exchange.export_folder("task@1", out)
        return
    store.exchange.export_folder("task@1", out)
    if version.kind in ("prompt_tuning", "p_tuning", "prefix_tuning", "union"):
        return  # PEFT's own forward returns virtual tokens, too: see test_prompt_exchange
    theirs = task.module()
    theirs.head.load_state_dict(module.head.state_dict())
    theirs.model = PeftModel.from_pretrained(theirs.model, out).eval()
    torch.testing.assert_close(task.scores(theirs), task.scores(module), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", method_names())
def test_on_minilm(method: str, tmp_path: Path) -> None:
    through_the_house(texts(), method, tmp_path)


@pytest.mark.parametrize("method", method_names())
def test_on_dinov2(method: str, tmp_path: Path) -> None:
    if method in NOT_IN_DINOV2:
        with pytest.raises((UnsupportedError, SpecError), match=NOT_IN_DINOV2[method]):
            learn(pictures(), AdapterStore(tmp_path / "store"), spec(method))
        return
    through_the_house(pictures(), method, tmp_path)


class Writer(L.LightningModule):
    """A language model that learns to go on from texts."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(fetched("smollm2"))
        self.model = AutoModelForCausalLM.from_pretrained(fetched("smollm2"))

    def batch(self, texts: Sequence[str]) -> dict[str, Tensor]:
        self.tokenizer.pad_token = self.tokenizer.pad_token or self.tokenizer.eos_token
        told = self.tokenizer(list(texts), padding=True, truncation=True, max_length=24, return_tensors="pt")
        return {**told, "labels": told["input_ids"].masked_fill(told["attention_mask"] == 0, -100)}

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss: Tensor = self.model(**batch).loss
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=2e-3)


def test_lora_and_prefix_on_smollm2(tmp_path: Path) -> None:
    """One adapter of two: low-rank updates and a prefix, on a language model that then writes with them."""
    fetch("smollm2"), fetch("vader")
    store = AdapterStore(tmp_path / "store")
    texts = Vader(domains=["products"]).load().train.inputs[:12]
    module = Writer()
    batches = [module.batch(texts[i : i + 4]) for i in (0, 4, 8)] * 2
    both = AdapterSpec.union(AdapterSpec("lora", r=8), AdapterSpec("prefix_tuning", num_virtual_tokens=8))
    losses = fit(module, ContinualAdapter(store, "reviews", both, module="model"), batches, epochs=1)
    assert sum(losses[3:]) < sum(losses[:3])
    module.eval()
    asked = module.tokenizer("The camera", return_tensors="pt")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logits = module.model(**asked).logits
        written = module.model.generate(**asked, max_new_tokens=8, do_sample=False)
    fresh = Writer().eval()
    adapted = AdaptedModel.of(fresh, model="model")
    with (
        torch.no_grad(),
        adapted.applied(Single("reviews@1"), lambda ref: (store.show(ref), store.load(ref))),
    ):
        assert torch.equal(fresh.model(**asked).logits, logits)
        assert torch.equal(fresh.model.generate(**asked, max_new_tokens=8, do_sample=False), written)
    with torch.no_grad():
        assert not torch.equal(fresh.model(**asked).logits, logits)
    assert adapted.base.fingerprint == store.show("reviews@1").base.fingerprint
    store.close()
