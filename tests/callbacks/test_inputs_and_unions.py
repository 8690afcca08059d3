"""Prompts and unions in an ordinary fit: trained, stored, resumed, answering again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from callbacks_tiny import TinyModule, quiet_trainer, same, snapshot, task_loader
from lightning.pytorch.callbacks import ModelCheckpoint
from transformers import BertConfig, BertModel

from contpeft import AdapterCheckpoint, AdapterSpec, AdapterStore, ContinualAdapter
from contpeft.adapters import AdaptedModel
from contpeft.spec import Single

SPECS = {
    "prompt": AdapterSpec("prompt_tuning", num_virtual_tokens=4),
    "network": AdapterSpec("p_tuning", num_virtual_tokens=4),
    "prefix": AdapterSpec("prefix_tuning", num_virtual_tokens=4),
    "unipelt": AdapterSpec("unipelt", num_virtual_tokens=4, reduction_factor=4, r=2),
}

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning")
each_spec = pytest.mark.parametrize("name", SPECS)


def continual(store: AdapterStore, name: str) -> ContinualAdapter:
    return ContinualAdapter(store, "billing", SPECS[name])


def saving(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(folder, save_last=True)


class Roomy(TinyModule):
    """Its encoder has positions for virtual tokens."""

    def __init__(self) -> None:
        super().__init__()
        sizes = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            still = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
            config = BertConfig(vocab_size=32, max_position_embeddings=16, **sizes, **still)
            self.model = BertModel(config, add_pooling_layer=False).eval()


class Stop(L.Callback):
    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch == 2:
            raise RuntimeError("stop")


def fit(callback: ContinualAdapter, *others: L.Callback, resume: Path | None = None) -> Any:
    torch.manual_seed(0)
    module = Roomy()
    saving = any(isinstance(each, ModelCheckpoint) for each in others)
    trainer = quiet_trainer(callback, *others, epochs=4, enable_checkpointing=saving)
    trainer.fit(module, task_loader(), ckpt_path=resume)
    return module


@each_spec
def test_a_fit_registers_what_answers_again(name: str, store: AdapterStore) -> None:
    before = snapshot(Roomy())
    module = fit(continual(store, name))
    version = store.show("billing@1")
    assert version.kind == {"prompt": "prompt_tuning", "network": "p_tuning", "prefix": "prefix_tuning"}.get(
        name, "union"
    )
    batch = next(iter(task_loader()))
    module.eval()
    adapted = AdaptedModel.of(module)

    def load(ref: str) -> Any:
        return store.show(ref), store.load(ref)

    with torch.no_grad():
        trained = module(batch)  # what was trained is still in
        with adapted.applied(Single("billing@1"), load):
            assert torch.equal(module(batch), trained)
        adapted.detach()
        plain = module(batch)
        assert (plain - trained).abs().max() > 1e-4
        with adapted.applied(Single("billing@1"), load):
            assert torch.equal(module(batch), trained)
        assert torch.equal(module(batch), plain)
    body = {key: value for key, value in snapshot(module).items() if not key.startswith("head.")}
    assert same(body, {key: before[key] for key in body})


@each_spec
def test_a_resumed_fit_ends_where_an_unbroken_one_does(name: str, tmp_path: Path) -> None:
    stored = []
    for which in ("whole", "broken"):
        store = AdapterStore(tmp_path / which)
        folder, resume = tmp_path / f"{which}-checkpoints", None
        if which == "broken":
            with pytest.raises(RuntimeError, match="stop"):
                fit(continual(store, name), AdapterCheckpoint(), Stop(), saving(folder))
            resume = folder / "last.ckpt"
        fit(continual(store, name), AdapterCheckpoint(), saving(folder), resume=resume)
        stored.append(store.load("billing@1"))
        store.close()
    assert stored[0].config == stored[1].config
    assert same(dict(stored[0].tensors), dict(stored[1].tensors))
