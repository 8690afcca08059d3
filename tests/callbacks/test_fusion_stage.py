"""The second stage of AdapterFusion: what trains, what is logged, what is stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from callbacks_tiny import LORA, Probe, TinyModule, learn, same, snapshot, task_loader
from torch import Tensor

from contpeft.adapters import AdaptedModel
from contpeft.adapters.fusion import FusionAttachment, FusionOptions
from contpeft.callbacks import ContinualAdapter, FusionStage
from contpeft.errors import NotFoundError, SpecError
from contpeft.spec import AdapterState, Single, Version
from contpeft.store import AdapterStore


@pytest.fixture
def store(tmp_path: Path) -> AdapterStore:
    opened = AdapterStore(tmp_path / "store")
    learn(TinyModule(), ContinualAdapter(opened, "mail", LORA), epochs=2)
    learn(TinyModule(), ContinualAdapter(opened, "chat", LORA), epochs=2, data=task_loader(flipped=True))
    return opened


def seeded(stage: FusionStage, *others: L.Callback, seed: int = 0) -> None:
    """Trains a stage on a fresh module, from a seed."""
    L.seed_everything(seed, verbose=False)
    learn(TinyModule(), stage, *others)


class Losses(L.Callback):
    """Keeps what ``training_step`` returned, and the penalty at that moment."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, float]] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        attachment = AdaptedModel.of(pl_module).attachment
        assert isinstance(attachment, FusionAttachment)
        self.penalty = attachment.penalty().item()

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.seen.append((outputs["loss"].item(), self.penalty))


def test_a_fusion_is_trained_registered_and_answers_again(store: AdapterStore) -> None:
    module = TinyModule()
    stage = FusionStage(store, "support", over=["mail", "chat@1"])
    names = Probe(lambda _, pl_module: {name for name, p in pl_module.named_parameters() if p.requires_grad})
    learn(module, stage, names, epochs=6)
    (made,) = stage.registered
    assert (made.ref, made.kind) == ("support-fusion@1", "fusion")
    assert [(parent.ref, parent.role) for parent in made.parents] == [
        ("mail@1", "frozen"),
        ("chat@1", "frozen"),
    ]
    assert all(".fusion." in name or name.startswith("head.") for name in names.seen[0])
    assert any("value.offset" in name for name in names.seen[0])
    AdaptedModel.of(module).detach()
    before = snapshot(module)

    def load(ref: str) -> tuple[Version, AdapterState]:
        return store.show(ref), store.load(ref)

    adapted, data = AdaptedModel.of(module), task_loader().dataset
    batch = {"input_ids": torch.stack([row["input_ids"] for row in data])}  # type: ignore[attr-defined]
    labels = torch.stack([row["labels"] for row in data])  # type: ignore[attr-defined]
    with adapted.applied(Single(made.ref), load), torch.no_grad():
        right = (module(batch).argmax(-1) == labels).float().mean()
    assert right > 0.9
    assert same(snapshot(module), before)


def test_the_regulariser_is_in_the_loss_of_its_own_step(store: AdapterStore) -> None:
    options = FusionOptions(value_initialized=False)  # far from the identity: the penalty is large
    with_penalty, without = Losses(), Losses()
    seeded(FusionStage(store, "one", over=["mail", "chat"], options=options), with_penalty)
    off = FusionOptions(value_initialized=False, regularization=False)
    seeded(FusionStage(store, "two", over=["mail", "chat"], options=off), without)
    loss, penalty = with_penalty.seen[0]
    assert penalty > 0.1
    assert without.seen[0][1] == 0.0
    assert loss - penalty == pytest.approx(without.seen[0][0], rel=1e-4)
    assert with_penalty.seen[-1][1] < penalty


def test_members_are_checked_when_the_stage_is_made(store: AdapterStore) -> None:
    with pytest.raises(NotFoundError, match="no adapter 'chatt'"):
        FusionStage(store, "support", over=["mail", "chatt"])
    module = TinyModule()
    before = snapshot(module)
    with pytest.raises(SpecError, match="needs two adapters at least"):
        learn(module, FusionStage(store, "support", over=["mail"]))
    assert same(snapshot(module), before)


def test_the_same_seed_trains_the_same_fusion(store: AdapterStore) -> None:
    found: list[dict[str, Tensor]] = []
    for task in ("one", "two"):
        seeded(FusionStage(store, task, over=["mail", "chat"]), seed=3)
        found.append(dict(store.load(f"{task}-fusion").tensors))
    assert same(*found)
